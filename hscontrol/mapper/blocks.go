package mapper

import (
	"encoding/binary"
	"sync"

	"tailscale.com/util/zstdframe"
)

// A map is mostly records of peers, and most of them are told to everybody in the same words. So they are compressed in
// blocks, each once, and a map is put together from frames one after another, which a zstd stream may be:
//
//	| own head, up to "Peers":[ | block | block, up to the viewer | a short run, made afresh | the rest of that block | … | the last record, and the rest |
//
// Every frame before the last ends with a comma after its last record. A change of many nodes is told in the same way
// to each of them.

// blockSize is how many places of the list of nodes make a block. Smaller blocks compress worse: 64 cost a tenth more
// bytes than one frame.
const blockSize = 64

// runSize is how many places of a block are made afresh for the viewer who is among them.
const runSize = 16

// least is how many texts a shared block has at least: fewer are compressed again with what stands around them, which
// costs less than the bytes of another frame.
const least = 8

// text is an encoded record or patch. Its number is its name: no two texts of a Mapper have the same.
type text struct {
	number uint64
	json   []byte
}

// block is a run of texts. If it is shared, others get the very same.
type block struct {
	texts  []*text
	shared bool
}

// Frame is a message as it goes over the wire: its length in four little-endian bytes, then JSON, compressed with zstd
// if the client asked for it (MapRequest.Compress). It comes in pieces, which others may be sent too: do not change them.
type Frame [][]byte

// Bytes is the frame in one piece.
func (f Frame) Bytes() []byte {
	if len(f) == 1 {
		return f[0]
	}
	var b []byte
	for _, piece := range f {
		b = append(b, piece...)
	}
	return b
}

// pieces takes a message down: what is the viewer's own in private, and shared blocks, if there is a packer for them,
// as they are.
type pieces struct {
	private []byte // since the last shared block
	packer  *blocks
	frame   Frame // nil: it has not begun
	size    int
}

func (p *pieces) text(s string) { p.private = append(p.private, s...) }

// member begins a member of the JSON object whose open beginning was taken down.
func (p *pieces) member(name string) {
	if p.private[len(p.private)-1] != '{' {
		p.text(",")
	}
	p.text(`"`)
	p.text(name)
	p.text(`":`)
}

// list takes down a list of texts.
func (p *pieces) list(blocks []*block) {
	p.text("[")
	for i, b := range blocks {
		texts := b.texts
		last := i == len(blocks)-1
		if last {
			texts = texts[:len(texts)-1]
		}
		switch {
		case p.packer != nil && b.shared && len(texts) >= least:
			p.share(p.packer.packed(texts))
		default:
			p.private = joined(p.private, texts)
		}
		if last {
			p.private = append(p.private, b.texts[len(texts)].json...)
		}
	}
	p.text("]")
}

// share puts a compressed block after what was taken down so far.
func (p *pieces) share(packed []byte) {
	p.pack()
	p.frame = append(p.frame, packed)
	p.size += len(packed)
}

// pack compresses what is private.
func (p *pieces) pack() {
	if len(p.private) == 0 {
		return
	}
	piece := make([]byte, p.room(), p.room()+len(p.private)/2+64)
	piece = compressed(piece, p.private)
	p.size += len(piece) - p.room()
	p.frame = append(p.frame, piece)
	p.private = p.private[:0]
}

// room is what the first piece leaves free for the length.
func (p *pieces) room() int {
	if len(p.frame) == 0 {
		return 4
	}
	return 0
}

// end is the whole frame.
func (p *pieces) end() Frame {
	p.pack()
	binary.LittleEndian.PutUint32(p.frame[0], uint32(p.size))
	return p.frame
}

// compressed appends text as a zstd frame: without a checksum, since Noise vouches for every byte.
func compressed(b, text []byte) []byte {
	return zstdframe.AppendEncode(b, text, zstdframe.FastestCompression, zstdframe.WithChecksum(false))
}

// scratch is where messages are taken down before they are compressed.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// maxScratch bounds what is kept for the next message, in bytes.
const maxScratch = 1 << 20

// Frame is a message as it goes over the wire. Blocks are shared.
func (m *Mapper) Frame(msg *Message, compress bool) Frame {
	if !compress {
		return plainFrame(msg.JSON())
	}
	buf := scratch.Get().(*[]byte)
	p := pieces{private: (*buf)[:0], packer: &m.blocks}
	msg.write(&p)
	f := p.end()
	if cap(p.private) <= maxScratch {
		*buf = p.private[:0]
		scratch.Put(buf)
	}
	return f
}

// FrameOf is any JSON as it goes over the wire.
func FrameOf(json []byte, compress bool) Frame {
	if !compress {
		return plainFrame(json)
	}
	p := pieces{private: json}
	return p.end()
}

func plainFrame(json []byte) Frame {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(json)), uint32(len(json)))
	return Frame{append(b, json...)}
}

// blocks keeps compressed blocks by the texts that they are made of. There are two generations: what is used moves to
// the younger one, and when that is full the older one is dropped.
type blocks struct {
	mu         sync.Mutex
	young, old map[blockKey][]byte
	size       int // bytes in young
}

// blockKey is the numbers of a block's texts.
type blockKey [blockSize]uint64

// maxBlocks bounds a generation, in bytes.
const maxBlocks = 4 << 20

// packed is the compressed form of a run of texts, each with a comma after it.
func (b *blocks) packed(texts []*text) []byte {
	var k blockKey
	for i, t := range texts {
		k[i] = t.number
	}
	if frame := b.find(k); frame != nil {
		return frame
	}
	buf := scratch.Get().(*[]byte)
	*buf = joined((*buf)[:0], texts)
	frame := compressed(make([]byte, 0, len(texts)*160), *buf)
	scratch.Put(buf)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep(k, frame)
	return frame
}

func (b *blocks) find(k blockKey) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if frame := b.young[k]; frame != nil {
		return frame
	}
	frame := b.old[k]
	if frame != nil {
		b.keep(k, frame)
	}
	return frame
}

// keep puts a block into the younger generation. The lock is held.
func (b *blocks) keep(k blockKey, frame []byte) {
	if b.young == nil || b.size > maxBlocks {
		b.young, b.old, b.size = map[blockKey][]byte{}, b.young, 0
	}
	b.young[k] = frame
	b.size += len(frame) + len(k)*8
}

// joined appends texts with a comma after each.
func joined(b []byte, texts []*text) []byte {
	for _, t := range texts {
		b = append(b, t.json...)
		b = append(b, ',')
	}
	return b
}
