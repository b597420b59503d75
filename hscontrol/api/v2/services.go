package v2

import (
	"errors"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// service is a name and addresses that stand for several devices, as Tailscale's API writes it. They are kept, with
// addresses that nothing else gets; the nodes' packet filters do not know them yet.
type service struct {
	Name        string            `json:"name"`
	Addrs       []string          `json:"addrs"`
	Comment     string            `json:"comment,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Ports       []string          `json:"ports,omitempty"`
	Tags        []string          `json:"tags,omitempty"`
}

func serviceAnswer(v *tailnet.Service) *service {
	return &service{v.Name, texts(v.Addrs), v.Comment, v.Annotations, v.Ports, v.Tags}
}

func listServices(c *call) (any, error) {
	all, err := c.cfg.Store.ListServices(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	list := []*service{}
	for _, v := range all {
		list = append(list, serviceAnswer(v))
	}
	return map[string]any{"vipServices": list}, nil
}

// serviceNamed is an error with the name that the path has, instead of the store's words.
func (c *call) serviceNamed(err error) error {
	if errors.Is(err, tailnet.ErrNotFound) {
		return absent("service " + strconv.Quote(c.r.PathValue("service")))
	}
	return err
}

func getService(c *call) (any, error) {
	v, err := c.cfg.Store.FindService(c.ctx, c.tailnet.ID, c.r.PathValue("service"))
	if err != nil {
		return nil, c.serviceNamed(err)
	}
	return serviceAnswer(v), nil
}

func deleteService(c *call) (any, error) {
	return nil, c.serviceNamed(c.cfg.Store.DeleteService(c.ctx, c.tailnet.ID, c.r.PathValue("service")))
}

var (
	serviceName = regexp.MustCompile(`^svc:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	servicePort = regexp.MustCompile(`^(tcp|udp):(\*|[0-9]{1,5}(-[0-9]{1,5})?)$`)
)

func putService(c *call) (any, error) {
	name := c.r.PathValue("service")
	var req service
	if err := c.read(&req); err != nil {
		return nil, err
	}
	switch {
	case !serviceName.MatchString(name):
		return nil, invalid("service %q: write svc: and a DNS label", name)
	case req.Name != "" && req.Name != name:
		return nil, invalid("the body names the service %q, the address %q: a service cannot be renamed", req.Name, name)
	}
	v := tailnet.Service{TailnetID: c.tailnet.ID, Name: name, Comment: req.Comment, Annotations: req.Annotations, Ports: req.Ports, Tags: req.Tags}
	for _, text := range req.Addrs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, invalid("addrs: %q is not an address", text)
		}
		v.Addrs = append(v.Addrs, a)
	}
	for _, port := range req.Ports {
		if err := checkPort(port); err != nil {
			return nil, err
		}
	}
	if err := c.mayTag(c.tailnet.ID, req.Tags); err != nil {
		return nil, err
	}
	kept, err := c.cfg.Store.PutService(c.ctx, v)
	if err != nil {
		return nil, err
	}
	return serviceAnswer(kept), nil
}

func checkPort(text string) error {
	if text == "do-not-validate" {
		return nil // so clients write all ports of a service that runs in the network layer
	}
	if !servicePort.MatchString(text) {
		return invalid("port %q: write tcp:443, udp:53, tcp:8000-8080 or tcp:*", text)
	}
	_, numbers, _ := strings.Cut(text, ":")
	if numbers == "*" {
		return nil
	}
	first, last, isRange := strings.Cut(numbers, "-")
	if !isRange {
		last = first
	}
	low, _ := strconv.Atoi(first)
	high, _ := strconv.Atoi(last)
	if low < 1 || high > 65535 || low > high {
		return invalid("port %q is not from 1 to 65535", text)
	}
	return nil
}

func serviceDevices(*call) (any, error) {
	return nil, unsupported("devices do not announce services to this server, so none has to be approved")
}
