package enrol

import (
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// A message is 4 bytes of length, big endian, and so many bytes of protobuf.

const (
	headerLen  = 4
	maxMessage = 1 << 20 // bytes
)

// writeMessage sends m in one write.
func writeMessage(w io.Writer, m proto.Message) error {
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, headerLen, headerLen+proto.Size(m)), m)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	if len(frame)-headerLen > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(frame)-headerLen)
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-headerLen))
	_, err = w.Write(frame)
	return err
}

// messageReader reads messages, into a buffer that the next one overwrites.
type messageReader struct {
	r   io.Reader
	buf []byte
}

// next reads a message into m. At the end of the stream it returns io.EOF.
func (r *messageReader) next(m proto.Message) error {
	var header [headerLen]byte
	if _, err := io.ReadFull(r.r, header[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > maxMessage {
		return fmt.Errorf("%w: a message of %d bytes", errProtocol, size)
	}
	if cap(r.buf) < int(size) {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return fmt.Errorf("the stream ended within a message: %w", noEOF(err))
	}
	if err := proto.Unmarshal(r.buf, m); err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	return nil
}

// noEOF keeps an end in the middle from being taken for a good one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
