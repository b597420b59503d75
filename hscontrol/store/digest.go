package store

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/big"
	"time"
)

// digest is the sum of the SHA-256 of rows, the same in whatever order they come.
type digest struct {
	rows int
	sum  big.Int
}

func (d *digest) add(row []any) {
	h := sha256.New()
	part := func(kind byte, b []byte) {
		var head [9]byte
		head[0] = kind
		binary.BigEndian.PutUint64(head[1:], uint64(len(b)))
		h.Write(head[:])
		h.Write(b)
	}
	for _, v := range row {
		switch v := v.(type) {
		case nil:
			part('-', nil)
		case int64:
			part('i', binary.BigEndian.AppendUint64(nil, uint64(v)))
		case string:
			part('s', []byte(v))
		case []byte:
			part('b', v)
		case bool:
			part('t', []byte{map[bool]byte{true: 1}[v]})
		case float64:
			part('f', binary.BigEndian.AppendUint64(nil, math.Float64bits(v)))
		case time.Time:
			part('m', binary.BigEndian.AppendUint64(nil, uint64(v.UnixMicro())))
		}
	}
	d.rows++
	d.sum.Add(&d.sum, new(big.Int).SetBytes(h.Sum(nil)))
}
