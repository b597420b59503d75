package enrol

import (
	"bytes"
	"io"
	"time"

	"google.golang.org/protobuf/proto"
	"tailscale.com/types/key"

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

// SampleState is a state file with everything in it.
func SampleState() []byte {
	raw, err := formatState(&state{
		MachineKey: key.NewMachine(), ServerKey: key.NewMachine().Public(), Control: "http://203.0.113.5:8080",
		Enrolment: &Enrolment{ID: 1, Name: "home-1", RegionID: 901, RegionCode: "home"}, Settings: []byte{1}, Month: "2026-11", Sent: 5,
		List: &nodeList{Number: 3, Classes: []nodeClass{{1, make([]byte, keyLen)}}},
	})
	if err != nil {
		panic(err)
	}
	return raw
}

// StoreList writes a state file of a relay that is enrolled, and has just received this list.
func StoreList(path string, nodes []key.NodePublic) error {
	now := time.Now()
	var keys []byte
	for _, k := range nodes {
		keys = k.AppendTo(keys)
	}
	return (&stateFile{path: path}).write(&state{
		MachineKey: key.NewMachine(), ServerKey: key.NewMachine().Public(), Enrolment: &Enrolment{ID: 1, Name: "home-1"}, Contact: now,
		List: &nodeList{Number: 1, At: now, Classes: []nodeClass{{0, keys}}},
	})
}

// Roster is the list alone.
type Roster struct{ r roster }

// NewRoster is one that has heard of nothing, in a session that is open.
func NewRoster() *Roster {
	r := &Roster{}
	r.r.restore(&state{}, time.Now())
	r.r.opened()
	return r
}

// Take takes a part of an admission; complete is whether it was the last, and gone who is to be sent away.
func (r *Roster) Take(m *relayv1.Admission) (gone []key.NodePublic, complete bool, err error) {
	c, err := r.r.take(m, time.Now())
	return c.gone, c.complete, err
}

// Nodes are the nodes of the list, as the file keeps them.
func (r *Roster) Nodes() map[key.NodePublic]uint32 {
	list, _ := r.r.stored()
	again := &roster{}
	again.restore(&state{Enrolment: &Enrolment{}, List: list}, time.Now())
	return again.nodes
}
