// Package noise is the server's side of the transport that clients speak after /ts2021: an HTTP upgrade, the handshake
// Noise_IK_25519_ChaChaPoly_BLAKE2s, and records of at most 4 KiB. The client's side is tailscale.com/control/controlbase.
//
//	upgrade.go    the HTTP request, or the WebSocket of a browser
//	handshake.go  who is there, and the keys of the connection
//	conn.go       records; one write, however many records it becomes, is one system call
package noise

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/flynn/noise"
	"go4.org/mem"
	"golang.org/x/crypto/chacha20poly1305"
	"tailscale.com/types/key"
)

// Key is the server's key. To make one costs as much as a part of a handshake, so a server makes it once.
type Key struct {
	private *ecdh.PrivateKey
	pair    noise.DHKey
}

// NewKey is k, ready for handshakes.
func NewKey(k key.MachinePrivate) *Key {
	private, err := ecdh.X25519().NewPrivateKey(k.UntypedBytes())
	if err != nil {
		panic(err) // any 32 bytes are a key
	}
	return &Key{private: private, pair: noise.DHKey{Private: private.Bytes(), Public: private.PublicKey().Bytes()}}
}

// Messages of the handshake begin with a type and a length; the client's first one with its version before these.
const (
	typeInit, typeAnswer, typeRecord = 1, 2, 4

	headerSize = 3
	initSize   = 101 // 2 version, 3 header, 32 ephemeral key, 48 encrypted machine key, 16 tag
	answerSize = 48  // 32 ephemeral key, 16 tag
)

var errInit = errors.New("this is no Noise handshake of a Tailscale client")

// accept takes a client's first message and makes the answer to it. With that, both have the keys of the connection.
func (k *Key) accept(init []byte) (c *Conn, answer []byte, err error) {
	if len(init) != initSize || init[2] != typeInit || int(binary.BigEndian.Uint16(init[3:])) != initSize-2-headerSize {
		return nil, nil, errInit
	}
	version := binary.BigEndian.Uint16(init)
	hs, err := noise.NewHandshakeState(noise.Config{
		CipherSuite:   noise.NewCipherSuite(&exchange{static: k}, bigEndian{}, noise.HashBLAKE2s),
		Pattern:       noise.HandshakeIK,
		Prologue:      strconv.AppendUint([]byte("Tailscale Control Protocol v"), uint64(version), 10),
		StaticKeypair: k.pair,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("beginning the Noise handshake: %w", err)
	}
	if _, _, _, err := hs.ReadMessage(nil, init[2+headerSize:]); err != nil {
		return nil, nil, fmt.Errorf("reading the Noise handshake, which may be meant for another server's key: %w", err)
	}
	answer = binary.BigEndian.AppendUint16([]byte{typeAnswer}, answerSize)
	answer, in, out, err := hs.WriteMessage(answer, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("answering the Noise handshake: %w", err)
	}
	c = &Conn{peer: key.MachinePublicFromRaw32(mem.B(hs.PeerStatic()))}
	c.in.cipher, c.out.cipher = in, out
	return c, answer, nil
}

// exchange is X25519 for one handshake. It keeps the private keys parsed, which halves what the handshake costs.
type exchange struct {
	static    *Key
	ephemeral *ecdh.PrivateKey
}

func (x *exchange) GenerateKeypair(random io.Reader) (pair noise.DHKey, err error) {
	if x.ephemeral, err = ecdh.X25519().GenerateKey(random); err != nil {
		return pair, err
	}
	return noise.DHKey{Private: x.ephemeral.Bytes(), Public: x.ephemeral.PublicKey().Bytes()}, nil
}

// DH refuses keys of low order, whose product is known to everybody.
func (x *exchange) DH(private, public []byte) ([]byte, error) {
	mine := x.static.private
	if !bytes.Equal(private, x.static.pair.Private) {
		mine = x.ephemeral
	}
	theirs, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	return mine.ECDH(theirs)
}

func (x *exchange) DHLen() int     { return 32 }
func (x *exchange) DHName() string { return "25519" }

// bigEndian is ChaCha20-Poly1305 with its nonces as Tailscale counts them. Noise itself counts in little-endian.
type bigEndian struct{}

func (bigEndian) CipherName() string { return "ChaChaPoly" }

func (bigEndian) Cipher(k [32]byte) noise.Cipher {
	aead, err := chacha20poly1305.New(k[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return &counting{aead: aead}
}

// counting is used by one goroutine at a time.
type counting struct {
	aead  cipher.AEAD
	nonce [chacha20poly1305.NonceSize]byte
}

func (c *counting) at(n uint64) []byte {
	binary.BigEndian.PutUint64(c.nonce[4:], n)
	return c.nonce[:]
}

func (c *counting) Encrypt(out []byte, n uint64, ad, plain []byte) []byte {
	return c.aead.Seal(out, c.at(n), plain, ad)
}

func (c *counting) Decrypt(out []byte, n uint64, ad, sealed []byte) ([]byte, error) {
	return c.aead.Open(out, c.at(n), sealed, ad)
}
