//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// roleVar tells a copy of the test binary that it is one of the lab's small servers.
const roleVar = "KEELSCALE_LAB_ROLE"

// Web starts a web server on the host, on the given ports. It greets everyone with the host's
// name and the address that it sees: "printer sees 192.168.100.2".
func (h *Host) Web(ports ...string) *Process {
	h.lab.t.Helper()
	p := h.role("web", ports...)
	p.Await("serving")
	return p
}

// Files starts a web server on the host that gives out the files below dir.
func (h *Host) Files(port, dir string) *Process {
	h.lab.t.Helper()
	p := h.role("files", port, dir)
	p.Await("serving")
	return p
}

// Echo starts a UDP server on the host, at one port, that tells everyone the address and port that
// it sees: "203.0.113.21:41000".
func (h *Host) Echo(port string) *Process {
	h.lab.t.Helper()
	p := h.role("echo", port)
	p.Await("serving")
	return p
}

// Seen sends a datagram from one socket of the host to each of the echo servers at addrs, and
// returns as what it is seen there, "" where no answer comes.
func (h *Host) Seen(addrs ...string) []string {
	h.lab.t.Helper()
	p := h.role("ask", addrs...)
	if code := p.Ended(); code != 0 {
		h.lab.t.Fatalf("asking from %s: %s", h.Name, p.Output())
	}
	return strings.Split(strings.TrimSuffix(p.Output(), "\n"), "\n")
}

// role starts a copy of the test binary as one of the small programs below.
func (h *Host) role(name string, args ...string) *Process {
	h.lab.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.lab.t.Fatalf("finding this program: %v", err)
	}
	return h.start(name, []string{roleVar + "=" + name + " " + strings.Join(args, " ")}, self)
}

// names starts the internet's name service: it knows the public hosts as NAME.example.net, and says
// of every other name that there is none, as fast as a client without the real internet needs it.
func (l *Lab) names() {
	l.t.Helper()
	l.internet.role("names").Await("serving")
}

// play is the main of a role; it returns the exit code.
func play(role string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	roles := map[string]func(context.Context, []string) error{"web": greet, "files": give, "echo": echo, "ask": ask, "names": answer}
	words := strings.Fields(role)
	if err := roles[words[0]](ctx, words[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// echo tells every sender of a datagram its address until ctx is over.
func echo(ctx context.Context, ports []string) error {
	conn, err := net.ListenPacket("udp4", ":"+ports[0])
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fmt.Println("serving", ports)
	buf := make([]byte, 1500)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return ctx.Err()
		}
		if _, err := conn.WriteTo([]byte(from.String()), from); err != nil {
			return err
		}
	}
}

// ask sends to all addresses from one socket and prints the answers in the order of the addresses.
func ask(_ context.Context, addrs []string) error {
	conn, err := net.ListenPacket("udp4", ":41000")
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, addr := range addrs {
		to, err := net.ResolveUDPAddr("udp4", addr)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo([]byte("who am I"), to); err != nil {
			return err
		}
		buf := make([]byte, 1500)
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second)) // a UDP socket takes deadlines
		n, _, _ := conn.ReadFrom(buf)                             // no answer is an answer: ""
		fmt.Println(string(buf[:n]))
	}
	return nil
}

// greet says to all comers who they are, until ctx is over.
func greet(ctx context.Context, ports []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return serve(ctx, ports, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s sees %s\n", name, who)
	}))
}

// give serves files on a port from a directory, until ctx is over.
func give(ctx context.Context, args []string) error {
	return serve(ctx, args[:1], http.FileServer(http.Dir(args[1])))
}

// serve answers on all ports until ctx is over. Every request has a connection of its own, so that
// each tells whether the way is open now.
func serve(ctx context.Context, ports []string, handler http.Handler) error {
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: handler}
	server.SetKeepAlivesEnabled(false)
	ended := make(chan error, len(ports))
	for _, port := range ports {
		ln, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() { ended <- server.Serve(ln) }() // ends with server.Close
	}
	fmt.Println("serving", ports)
	<-ctx.Done()
	err := server.Close()
	for range ports {
		<-ended
	}
	return err
}
