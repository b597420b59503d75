package policy

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// bitset is a set of small numbers. Sets that are used together have the same length.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i int)    { b[i/64] &^= 1 << (i % 64) }
func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// add puts every member of o into b. A nil o is empty.
func (b bitset) add(o bitset) {
	for i, w := range o {
		b[i] |= w
	}
}

// keep takes out of b what is not in o.
func (b bitset) keep(o bitset) {
	for i := range b {
		b[i] &= o[i]
	}
}

func (b bitset) meets(o bitset) bool {
	for i, w := range b {
		if w&o[i] != 0 {
			return true
		}
	}
	return false
}

func (b bitset) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// all yields the members, least first.
func (b bitset) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range b {
			for ; w != 0; w &= w - 1 {
				if !yield(i*64 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// appendKey appends the members in a form that is equal for equal sets of one length, and short for few members.
func (b bitset) appendKey(key []byte) []byte {
	for i, w := range b {
		if w != 0 {
			key = binary.AppendUvarint(key, uint64(i))
			key = binary.LittleEndian.AppendUint64(key, w)
		}
	}
	return binary.AppendUvarint(key, uint64(len(b)))
}
