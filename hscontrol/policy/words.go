package policy

import (
	"fmt"
	"strings"

	"tailscale.com/tailcfg"
)

func selectorTexts(list []selector) string {
	var texts []string
	for _, s := range list {
		texts = append(texts, s.text)
	}
	return "[" + strings.Join(texts, " ") + "]"
}

func targetTexts(list []target) string {
	var texts []string
	for _, t := range list {
		texts = append(texts, t.text)
	}
	return "[" + strings.Join(texts, " ") + "]"
}

func portTexts(ports []tailcfg.PortRange) string {
	var texts []string
	for _, p := range ports {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}

func numbers(protos []int) string {
	var texts []string
	for _, p := range protos {
		name := fmt.Sprint(p)
		for n, list := range protocols {
			if list[0] == p && (name == fmt.Sprint(p) || n < name) {
				name = n
			}
		}
		texts = append(texts, name)
	}
	return strings.Join(texts, ", ")
}
