package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/config"
)

const (
	defaultTimeout  = 5 * time.Second // of one command
	defaultGRPCPort = "50443"
	maxAnswer       = 64 << 20 // bytes; a list of some ten thousand nodes
)

type client = headscalev1.HeadscaleServiceClient

// ask runs do with a connection to the server, within the time that the configuration allows.
func (c *cli) ask(ctx context.Context, do func(context.Context, client) error) error {
	if c.bypass {
		return c.private(ctx, do)
	}
	where, err := c.server()
	if err != nil {
		return err
	}
	c.compat = firstOf(c.compat, where.CLI.OutputCompat)
	if err := c.checkCompat(); err != nil {
		return err
	}
	return c.askAt(ctx, where, do)
}

func (c *cli) askAt(ctx context.Context, where config.Client, do func(context.Context, client) error) error {
	timeout := where.CLI.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	conn, err := dial(ctx, where)
	if err != nil {
		return err
	}
	defer conn.Close()
	if where.CLI.Address != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+where.CLI.APIKey)
	}
	err = do(ctx, headscalev1.NewHeadscaleServiceClient(loud{conn, c}))
	if status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the server gave no answer within %s: see its log, or allow more with cli.timeout", timeout)
	}
	if text := status.Convert(err).Message(); status.Code(err) == codes.Unavailable && strings.HasPrefix(text, "connection error") {
		return broken(where, text)
	}
	return err
}

// loud is a connection whose answers may carry what people should be told loudly, beside what they asked.
type loud struct {
	*grpc.ClientConn
	cli *cli
}

// Invoke makes a call, and tells what came with the answer.
func (l loud) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var header metadata.MD
	err := l.ClientConn.Invoke(ctx, method, args, reply, append(opts, grpc.Header(&header))...)
	for _, problem := range header.Get(api.ProblemHeader) {
		if !slices.Contains(l.cli.problems, problem) {
			l.cli.problems = append(l.cli.problems, problem)
			l.cli.warn("%s", oneLine(problem))
		}
	}
	return err
}

// broken says that the connection was there and came to nothing.
func broken(where config.Client, text string) error {
	if strings.HasPrefix(where.CLI.Address, "http://") {
		return fmt.Errorf("the server at %s hung up: if it speaks TLS, leave http:// out", where.CLI.Address)
	}
	return fmt.Errorf("the connection to the server at %s broke: %s", firstOf(where.CLI.Address, where.UnixSocket), text)
}

// server says where the server is: flags first, then the environment, then the file.
func (c *cli) server() (config.Client, error) {
	file := ""
	if c.socket == "" && (c.address == "" || c.apiKey == "") {
		file = config.Search(c.configFile, c.env)
	}
	where, err := config.LoadClient(file, c.env)
	if errors.Is(err, fs.ErrPermission) {
		return where, fmt.Errorf("%w: run this as root, or say where the server is with --socket", err)
	}
	if err != nil {
		return where, err
	}
	if c.address != "" {
		where.CLI.Address = c.address
	}
	if c.apiKey != "" {
		where.CLI.APIKey = c.apiKey
	}
	where.CLI.Insecure = where.CLI.Insecure || c.insecure
	if c.socket != "" {
		if c.address != "" {
			return where, errors.New("say --socket or --address, not both")
		}
		where.UnixSocket, where.CLI.Address = c.socket, ""
	}
	if where.CLI.Address != "" && where.CLI.APIKey == "" {
		return where, fmt.Errorf("the server at %s wants an API key: make one there with headscale apikeys create, then give it with --api-key or HEADSCALE_CLI_API_KEY", where.CLI.Address)
	}
	return where, nil
}

// dial connects at once, so that it can be said what is wrong.
func dial(ctx context.Context, where config.Client) (*grpc.ClientConn, error) {
	if where.CLI.Address == "" {
		return dialSocket(ctx, where.UnixSocket)
	}
	return dialRemote(ctx, where.CLI)
}

func dialSocket(ctx context.Context, path string) (*grpc.ClientConn, error) {
	network, address := "unix", path
	first, err := new(net.Dialer).DialContext(ctx, network, address)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no headscale server answers at %s: start it with headscale serve, or say where it is with --socket or --config", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("you may not open %s: run this as root or as a member of the group that the socket belongs to", path)
	case err != nil:
		return nil, fmt.Errorf("connecting to the server at %s: %w", path, err)
	}
	return newConn("localhost", network, address, first, insecure.NewCredentials())
}

func dialRemote(ctx context.Context, cfg config.CLI) (*grpc.ClientConn, error) {
	address, plain := strings.CutPrefix(cfg.Address, "http://")
	address = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "grpc://"), "/")
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), defaultGRPCPort)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return nil, fmt.Errorf("%q is no address: write host:port", cfg.Address)
	}
	first, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("no server answers at %s: %w; the server listens there when grpc_listen_addr is set", address, err)
	}
	if plain {
		return newConn(host, "tcp", address, first, insecure.NewCredentials())
	}
	if err := tryTLS(ctx, address, host, cfg.Insecure); err != nil {
		first.Close()
		return nil, err
	}
	return newConn(host, "tcp", address, first, credentials.NewTLS(tlsConfig(host, cfg.Insecure)))
}

func tlsConfig(host string, unchecked bool) *tls.Config {
	return &tls.Config{ServerName: host, InsecureSkipVerify: unchecked, MinVersion: tls.VersionTLS12}
}

// tryTLS shakes hands once beforehand: gRPC would only tell that it could not connect.
func tryTLS(ctx context.Context, address, host string, unchecked bool) error {
	conn, err := (&tls.Dialer{Config: tlsConfig(host, unchecked)}).DialContext(ctx, "tcp", address)
	var notTLS tls.RecordHeaderError
	var untrusted *tls.CertificateVerificationError
	switch {
	case err == nil:
		return conn.Close()
	case errors.As(err, &notTLS):
		return fmt.Errorf("the server at %s speaks without TLS: if the network between is safe, write --address http://%s", address, address)
	case errors.As(err, &untrusted):
		return fmt.Errorf("the certificate of %s cannot be trusted: %w; --insecure does without", address, untrusted.Err)
	}
	return fmt.Errorf("connecting to the server at %s: %w", address, err)
}

// newConn uses the connection that is there first; should it break, gRPC dials another.
func newConn(host, network, address string, first net.Conn, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	ready := make(chan net.Conn, 1)
	ready <- first
	conn, err := grpc.NewClient("passthrough:///"+host,
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			select {
			case c := <-ready:
				return c, nil
			default:
				return new(net.Dialer).DialContext(ctx, network, address)
			}
		}))
	if err != nil {
		first.Close()
		return nil, fmt.Errorf("connecting to the server at %s: %w", address, err)
	}
	return conn, nil
}

// sentence is what an error says, without the wrapping that gRPC puts around what the server said.
func sentence(err error) string {
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		switch s.Code() {
		case codes.Unimplemented:
			if strings.HasPrefix(s.Message(), "unknown ") {
				return "the server is of another release and does not know this command: " + s.Message()
			}
		case codes.Canceled:
			return "interrupted"
		}
		return s.Message()
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return err.Error()
}
