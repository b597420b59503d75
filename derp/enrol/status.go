package enrol

import "time"

// Status is how it stands with the enrolment, for people.
type Status struct {
	Control    string    // URL of the control server
	Enrolment  Enrolment // zero while the relay is not enrolled
	Published  []string  // where clients are told to connect to; none while the relay is left out of the DERP map
	OutBecause string    // why it is left out
	Connected  bool      // there is a session, and its list is complete
	Contact    time.Time // last sign of life of the server; zero if there never was one
	Trouble    string    // why there is no session; "" if there is one
	Nodes      int       // that are admitted
	Until      time.Time // without a session: until when they are; zero if they are not
}

// Status tells how it stands now.
func (a *Agent) Status() Status {
	s := Status{Control: a.url.String()}
	a.mu.Lock()
	if e := a.mu.state.Enrolment; e != nil {
		s.Enrolment = *e
	}
	s.Published, s.OutBecause, s.Trouble = a.mu.line.published, a.mu.line.outBecause, a.mu.line.trouble
	a.mu.Unlock()
	r := &a.roster
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Connected, s.Contact = r.up, r.contact
	ok, until := r.servedLocked(time.Now())
	if ok {
		s.Nodes, s.Until = len(r.nodes), until
	}
	if s.Connected {
		s.Trouble = ""
	}
	return s
}
