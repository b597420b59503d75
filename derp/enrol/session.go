package enrol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

const (
	reportEvery = 2 * time.Second // a Load, which is also the sign of life: a line that is dead is noticed by then
	lookAround  = time.Second     // for what the description says
	silence     = 7 * time.Second // after which a line counts as dead; the server speaks every 2
	leaveTime   = 1500 * time.Millisecond
)

// session keeps one session until it breaks, or until ctx ends and leave was taken. It never returns nil unless ctx
// ended.
func (a *Agent) session(ctx context.Context, h Host) error {
	l, err := a.dial(ctx)
	if err != nil {
		return err
	}
	// Whoever ends the session says why; what reading and writing then return is only its echo.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	stop := context.AfterFunc(life, l.close)
	defer l.close()
	defer stop()

	body, out := io.Pipe()
	req, err := http.NewRequestWithContext(life, http.MethodPost, "https://relay"+sessionPath, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	watchdog := time.AfterFunc(silence, func() { end(errSilent) })
	defer watchdog.Stop()

	r := &reporter{agent: a, host: h, line: l, out: out}
	var writing sync.WaitGroup
	writing.Go(func() {
		defer out.Close()
		err := r.run(ctx, life)
		if errors.Is(err, errMoved) {
			end(err)
			return
		}
		// Leave was taken, and the server hangs up; or the stream is broken, and what came last says why.
		over := time.AfterFunc(leaveTime, func() { end(err) })
		defer over.Stop()
		out.Close()
		<-life.Done()
	})
	err = a.listen(l, req, h, watchdog)
	end(err)
	body.CloseWithError(io.ErrClosedPipe) // whoever still writes
	writing.Wait()
	if cause := context.Cause(life); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// listen takes orders until the stream ends.
func (a *Agent) listen(l *line, req *http.Request, h Host, watchdog *time.Timer) error {
	res, err := l.h2.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("opening a session at %s: %w", a.url, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return a.explainSession(res)
	}
	a.noteClock(res.Header, time.Now())
	a.roster.opened()
	in := messageReader{r: res.Body}
	for {
		var o relayv1.Order
		if err := in.next(&o); err != nil {
			switch {
			case err == io.EOF:
				return errors.New("the control server ended the session")
			case errors.Is(err, errProtocol):
				return err
			}
			return fmt.Errorf("the line to the control server broke: %w", err)
		}
		watchdog.Reset(silence)
		a.roster.heard(time.Now())
		if err := a.obey(h, &o); err != nil {
			return err
		}
	}
}

// reporter sends reports.
type reporter struct {
	agent *Agent
	host  Host
	line  *line
	out   io.Writer
	told  *relayv1.Description
}

// run reports until life ends, which is an error, or until ctx ends and the server knows that we leave.
func (r *reporter) run(ctx, life context.Context) error {
	began := interfaceAddrs()
	r.told = r.agent.describe(r.host)
	err := writeMessage(r.out, &relayv1.Report{Hello: r.agent.hello(), Description: r.told, Load: r.agent.load(r.host)})
	if err != nil {
		return err
	}
	report := time.NewTicker(reportEvery)
	defer report.Stop()
	look := time.NewTicker(lookAround)
	defer look.Stop()
	for {
		m := &relayv1.Report{}
		select {
		case <-life.Done():
			return context.Cause(life)
		case <-ctx.Done():
			return writeMessage(r.out, &relayv1.Report{Leaving: true, Load: r.agent.load(r.host)})
		case <-report.C:
			m.Load = r.agent.load(r.host)
		case <-look.C:
			if r.line.moved(began) {
				return errMoved
			}
			now := r.agent.describe(r.host)
			if proto.Equal(now, r.told) {
				continue
			}
			m.Description, r.told = now, now
		}
		if err := writeMessage(r.out, m); err != nil {
			return err
		}
	}
}

// hello says who we are.
func (a *Agent) hello() *relayv1.Hello {
	derpKey := a.cfg.RelayKey.AppendTo(nil)
	h := &relayv1.Hello{
		Version:   a.cfg.Version,
		DerpKey:   derpKey,
		Region:    a.cfg.Region,
		Name:      a.cfg.Name,
		Admission: a.roster.newest(),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.keyed = a.mu.state.Enrolment == nil || a.mu.showKey
	if a.mu.keyed {
		h.EnrollKey = a.key.text
	}
	return h
}
