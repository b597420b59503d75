package enrol

import (
	"bytes"
	"io"

	"google.golang.org/protobuf/proto"

	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// WriteMessage writes a message as a session does.
func WriteMessage(w io.Writer, m proto.Message) error { return writeMessage(w, m) }

// ReadReport reads a report as a server would.
func ReadReport(r io.Reader) (*relayv1.Report, error) {
	m := &relayv1.Report{}
	return m, (&messageReader{r: r}).next(m)
}

// ReadOrders reads what a server sent, to the end.
func ReadOrders(raw []byte) (orders []*relayv1.Order, err error) {
	in := messageReader{r: bytes.NewReader(raw)}
	for {
		o := &relayv1.Order{}
		if err := in.next(o); err != nil {
			return orders, err
		}
		orders = append(orders, o)
	}
}

// ReadState reads a state file, and writes it again.
func ReadState(raw []byte) ([]byte, error) {
	s, err := parseState(raw)
	if err != nil {
		return nil, err
	}
	return formatState(&s)
}
