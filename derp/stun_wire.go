package derp

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// The parts of RFC 8489 that a binding needs.
//
//	 0                   1                   2                   3
//	|0 0|  type (14 bits)           |  length of what follows 20  |
//	|                  magic cookie 0x2112A442                    |
//	|                  transaction id (96 bits)                   |
//	|  attribute type               |  attribute length           | value, padded to 4
const (
	stunHeader      = 20
	stunCookie      = 0x2112A442
	bindingRequest  = 0x0001
	bindingSuccess  = 0x0101
	bindingError    = 0x0111
	attrErrorCode   = 0x0009
	attrUnknown     = 0x000A
	attrXORMapped   = 0x0020
	attrFingerprint = 0x8028
	fingerprintXOR  = 0x5354554E
	optionalAttrs   = 0x8000 // types from here on may be ignored
	maxUnknown      = 4      // reported in one answer
)

// stunRequest is a binding request.
type stunRequest struct {
	id       [12]byte
	unknown  [maxUnknown]uint16 // attributes that we must understand and do not
	unknowns int
	print    bool // it carried a fingerprint, so the answer does
}

// parseSTUN reads a binding request; ok is false for everything else.
func parseSTUN(b []byte) (req stunRequest, ok bool) {
	if len(b) < stunHeader ||
		binary.BigEndian.Uint16(b) != bindingRequest ||
		binary.BigEndian.Uint32(b[4:]) != stunCookie ||
		int(binary.BigEndian.Uint16(b[2:])) != len(b)-stunHeader {
		return req, false
	}
	copy(req.id[:], b[8:])
	for at := stunHeader; at < len(b); {
		if req.print || len(b)-at < 4 { // nothing may follow a fingerprint
			return req, false
		}
		kind, size := binary.BigEndian.Uint16(b[at:]), int(binary.BigEndian.Uint16(b[at+2:]))
		end := at + 4 + (size+3)&^3
		if end > len(b) {
			return req, false
		}
		switch {
		case kind == attrFingerprint:
			if size != 4 || binary.BigEndian.Uint32(b[at+4:]) != fingerprint(b[:at]) {
				return req, false
			}
			req.print = true
		case kind < optionalAttrs && !isSTUNCredential(kind) && req.unknowns < maxUnknown:
			req.unknown[req.unknowns] = kind
			req.unknowns++
		}
		at = end
	}
	return req, true
}

// isSTUNCredential reports whether an attribute proves something to a server that asks for
// proof, which we do not: USERNAME, MESSAGE-INTEGRITY, REALM, NONCE and their like.
func isSTUNCredential(kind uint16) bool {
	switch kind {
	case 0x0006, 0x0008, 0x0014, 0x0015, 0x001C, 0x001D, 0x001E:
		return true
	}
	return false
}

// appendAnswer appends the answer to req, which came from addr.
func (req stunRequest) appendAnswer(b []byte, addr netip.AddrPort) []byte {
	kind := uint16(bindingSuccess)
	if req.unknowns > 0 {
		kind = bindingError
	}
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = append(b, 0, 0) // length, below
	b = binary.BigEndian.AppendUint32(b, stunCookie)
	b = append(b, req.id[:]...)
	if req.unknowns > 0 {
		b = req.appendUnknown(b)
	} else {
		b = req.appendMapped(b, addr)
	}
	setLen := func(n int) { binary.BigEndian.PutUint16(b[start+2:], uint16(n)) }
	setLen(len(b) - start - stunHeader)
	if req.print {
		setLen(len(b) - start - stunHeader + 8) // the fingerprint covers a length that includes it
		sum := fingerprint(b[start:])
		b = binary.BigEndian.AppendUint32(b, attrFingerprint<<16|4)
		b = binary.BigEndian.AppendUint32(b, sum)
	}
	return b
}

// appendMapped appends XOR-MAPPED-ADDRESS: the address, disguised from NATs that rewrite
// whatever looks like one.
func (req stunRequest) appendMapped(b []byte, addr netip.AddrPort) []byte {
	ip := addr.Addr().AsSlice()
	family := byte(1)
	if len(ip) == 16 {
		family = 2
	}
	b = binary.BigEndian.AppendUint32(b, attrXORMapped<<16|uint32(4+len(ip)))
	b = append(b, 0, family)
	b = binary.BigEndian.AppendUint16(b, addr.Port()^(stunCookie>>16))
	var mask [16]byte
	binary.BigEndian.PutUint32(mask[:], stunCookie)
	copy(mask[4:], req.id[:])
	for i, octet := range ip {
		b = append(b, octet^mask[i])
	}
	return b
}

// appendUnknown appends ERROR-CODE 420 and which attributes it is about.
func (req stunRequest) appendUnknown(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, attrErrorCode<<16|4)
	b = append(b, 0, 0, 4, 20) // class 4, number 20, no text
	b = binary.BigEndian.AppendUint32(b, attrUnknown<<16|uint32(2*req.unknowns))
	for _, kind := range req.unknown[:req.unknowns] {
		b = binary.BigEndian.AppendUint16(b, kind)
	}
	if req.unknowns%2 == 1 {
		b = append(b, 0, 0)
	}
	return b
}

func fingerprint(b []byte) uint32 { return crc32.ChecksumIEEE(b) ^ fingerprintXOR }
