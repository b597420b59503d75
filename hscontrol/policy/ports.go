package policy

import (
	"strconv"
	"strings"

	"tailscale.com/tailcfg"
)

// protocols are the names that a proto may have (IANA protocol numbers).
var protocols = map[string][]int{
	"icmp": {1}, "igmp": {2}, "ipv4": {4}, "ip-in-ip": {4}, "tcp": {6}, "egp": {8}, "igp": {9}, "udp": {17},
	"gre": {47}, "esp": {50}, "ah": {51}, "ipv6-icmp": {58}, "sctp": {132}, "fc": {133},
}

// parseProto reads a protocol by name or number. The empty text stands for TCP, UDP, ICMP and ICMPv6: no number.
func parseProto(text string) ([]int, bool) {
	if text == "" {
		return nil, true
	}
	if n, ok := protocols[strings.ToLower(text)]; ok {
		return n, true
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return nil, false
	}
	return []int{int(n)}, true
}

// parsePorts reads "*", "80", "80-443", or several of them with commas between.
func parsePorts(text string) ([]tailcfg.PortRange, *Refusal) {
	var ports []tailcfg.PortRange
	for part := range strings.SplitSeq(text, ",") {
		r, refusal := parsePortRange(strings.TrimSpace(part))
		if refusal != nil {
			return nil, refusal
		}
		ports = append(ports, r)
	}
	return ports, nil
}

func parsePortRange(text string) (tailcfg.PortRange, *Refusal) {
	const remedy = "write a port, a range such as 8000-8100, or *"
	if text == "*" {
		return tailcfg.PortRangeAny, nil
	}
	first, last, isRange := strings.Cut(text, "-")
	from, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return tailcfg.PortRange{}, refuse(0, remedy, "port range %q: invalid first integer", text)
	}
	if from == 0 {
		return tailcfg.PortRange{}, refuse(0, remedy, "port range %q: first port must be >0, or use '*' for wildcard", text)
	}
	to := from
	if isRange {
		if to, err = strconv.ParseUint(last, 10, 16); err != nil {
			return tailcfg.PortRange{}, refuse(0, remedy, "port range %q: invalid last integer", text)
		}
	}
	if to < from {
		return tailcfg.PortRange{}, refuse(0, "write the lower port first", "port range %q: first port must be <= last port", text)
	}
	return tailcfg.PortRange{First: uint16(from), Last: uint16(to)}, nil
}

// parseIP reads an entry of a grant's ip: "*", ports, or "proto:ports".
func parseIP(text string) (protoPorts, *Refusal) {
	text = strings.TrimSpace(text)
	proto, ports, both := strings.Cut(text, ":")
	if !both {
		proto, ports = "", text
	}
	protos, ok := parseProto(proto)
	if !ok || both && proto == "" {
		return protoPorts{}, refuse(0, "write a name such as tcp, udp or icmp, or a number", "unknown protocol %q in %q", proto, text)
	}
	ranges, refusal := parsePorts(ports)
	return protoPorts{protos, ranges}, refusal
}
