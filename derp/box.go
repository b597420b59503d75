package derp

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/nacl/box"
	"golang.org/x/crypto/salsa20/salsa"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// Introductions and welcomes are NaCl boxes, whose cost is the multiplication on the curve that
// gives the key which both sides share. It is done once for a connection: the general
// functions would do it four times.

// relayKey is the relay's key, prepared for the boxes of many clients.
type relayKey struct {
	private *ecdh.PrivateKey
}

func newRelayKey(k key.NodePrivate) (*relayKey, error) {
	raw := k.Raw32()
	private, err := ecdh.X25519().NewPrivateKey(raw[:])
	if err != nil {
		return nil, fmt.Errorf("preparing the relay's key: %w", err)
	}
	return &relayKey{private}, nil
}

// boxKey is what the relay and one client share.
type boxKey [32]byte

// with returns what the relay shares with a client. It fails for a key that is none.
func (k *relayKey) with(client *nodeKey) (*boxKey, error) {
	public, err := ecdh.X25519().NewPublicKey(client[:])
	if err != nil {
		return nil, err
	}
	secret, err := k.private.ECDH(public)
	if err != nil {
		return nil, err
	}
	var zero [16]byte
	shared := new(boxKey)
	salsa.HSalsa20((*[32]byte)(shared), &zero, (*[32]byte)(secret), &salsa.Sigma)
	return shared, nil
}

// open opens a nonce and the box after it.
func (k *boxKey) open(sealed []byte) ([]byte, bool) {
	if len(sealed) < derp.NonceLen {
		return nil, false
	}
	return box.OpenAfterPrecomputation(nil, sealed[derp.NonceLen:], (*[derp.NonceLen]byte)(sealed), (*[32]byte)(k))
}

// seal returns a nonce and the box after it.
func (k *boxKey) seal(text []byte) ([]byte, error) {
	nonce := new([derp.NonceLen]byte)
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, errors.Join(errors.New("no random numbers"), err)
	}
	return box.SealAfterPrecomputation(nonce[:], text, nonce, (*[32]byte)(k)), nil
}
