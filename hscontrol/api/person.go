package api

import (
	"context"
	"errors"
	"net"
	"os/user"
	"strconv"

	"google.golang.org/grpc/credentials"
)

// person is who opened the unix socket, as far as the system tells.
type person struct {
	credentials.CommonAuthInfo
	name string // empty: not known
}

// AuthType is what gRPC calls this kind of knowledge.
func (person) AuthType() string { return "unix" }

// socketCredentials look who opened a unix socket. They change nothing on the wire.
type socketCredentials struct{}

func (socketCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, person{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, nameOfPeer(conn)}, nil
}

func (socketCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for servers")
}

func (socketCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}
func (c socketCredentials) Clone() credentials.TransportCredentials { return c }
func (socketCredentials) OverrideServerName(string) error           { return nil }

// nameOfPeer is the user of the process at the other end of a unix socket; empty if it is none.
func nameOfPeer(conn net.Conn) string {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return ""
	}
	uid, ok := peerUID(c)
	if !ok {
		return ""
	}
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}
