package mapper

import (
	"encoding/binary"
	"sync"

	"tailscale.com/util/zstdframe"
)

// A whole map is mostly peers, and most of them are told to everybody in the same words. So they are compressed in
// blocks, each once, and a map is put together from frames one after another, which a zstd stream may be:
//
//	| own head, up to "Peers":[ | block | block | the block with the viewer, made afresh | … | the rest, and the tail |
//
// Every frame before the last ends with a comma after its last record.

// blockSize is how many places of the list of nodes make a block. Smaller blocks compress worse: 64 cost a tenth more
// bytes than one frame.
const blockSize = 64

// span is a run of a message's peers that come from one block of nodes.
type span struct {
	end    int  // the first peer after it
	shared bool // the viewer is not among these nodes, so others may get the same bytes
}

// blocks keeps compressed blocks by the records that they are made of. There are two generations: what is used moves
// to the younger one, and when that is full the older one is dropped.
type blocks struct {
	mu         sync.Mutex
	young, old map[blockKey][]byte
	size       int // bytes in young
}

// blockKey names records by where their bytes are: a record is encoded once and never changes.
type blockKey [blockSize]*byte

// maxBlocks bounds a generation, in bytes.
const maxBlocks = 24 << 20

// packed is the compressed form of a run of records, each with a comma after it.
func (b *blocks) packed(records [][]byte) []byte {
	var k blockKey
	for i, r := range records {
		k[i] = &r[0]
	}
	if frame := b.find(k); frame != nil {
		return frame
	}
	frame := zstdframe.AppendEncode(nil, joined(nil, records, true), zstdframe.FastestCompression)
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

// joined appends records with commas between them, and after the last one if there are more to come.
func joined(b []byte, records [][]byte, more bool) []byte {
	for i, r := range records {
		b = append(b, r...)
		if more || i < len(records)-1 {
			b = append(b, ',')
		}
	}
	return b
}

// Frame is a message as it goes over the wire; see the function Frame. The blocks of a whole map are shared.
func (m *Mapper) Frame(msg *Message, compress bool) []byte {
	if !compress || len(msg.spans) < 2 {
		return Frame(msg.JSON(), compress)
	}
	head, tail := msg.envelope()
	b := make([]byte, 4, 4+len(head)/2+len(msg.peers)*160)
	b = zstdframe.AppendEncode(b, head, zstdframe.FastestCompression)
	begin := 0
	for _, s := range msg.spans[:len(msg.spans)-1] {
		records := msg.peers[begin:s.end]
		begin = s.end
		switch {
		case len(records) == 0:
		case s.shared:
			b = append(b, m.blocks.packed(records)...)
		default:
			b = zstdframe.AppendEncode(b, joined(nil, records, true), zstdframe.FastestCompression)
		}
	}
	b = zstdframe.AppendEncode(b, append(joined(nil, msg.peers[begin:], false), tail...), zstdframe.FastestCompression)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	return b
}
