package policy_test

import (
	"fmt"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func BenchmarkCompile(b *testing.B) {
	for _, size := range []struct{ nodes, rules int }{{1000, 20}, {2000, 200}, {10000, 200}} {
		b.Run(fmt.Sprintf("nodes=%d/rules=%d", size.nodes, size.rules), func(b *testing.B) {
			s := madeTailnet(size.nodes)
			p, err := policy.Parse(madePolicy(size.rules, len(s.Users)))
			if err != nil {
				b.Fatal(err)
			}
			var c *policy.Compiled
			b.ReportAllocs()
			for b.Loop() {
				if c, err = policy.Compile(p, s); err != nil {
					b.Fatal(err)
				}
			}
			classes := map[int]bool{}
			for _, n := range s.Nodes {
				classes[c.Class(n.ID)] = true
			}
			b.ReportMetric(float64(len(classes)), "classes")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/op")
		})
	}
}

// BenchmarkCompileOpen is what every join costs without a policy.
func BenchmarkCompileOpen(b *testing.B) {
	for _, nodes := range []int{2000, 10000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			s := madeTailnet(nodes)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := policy.Compile(nil, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEverything is compiling, and then asking for every node's filter, SSH policy and capabilities.
func BenchmarkEverything(b *testing.B) {
	s := madeTailnet(2000)
	p, err := policy.Parse(madePolicy(200, len(s.Users)))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c, err := policy.Compile(p, s)
		if err != nil {
			b.Fatal(err)
		}
		for _, n := range s.Nodes {
			c.Filter(n.ID)
			c.SSH(n.ID)
			c.Caps(n.ID)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/op")
}

func BenchmarkSees(b *testing.B) {
	s := madeTailnet(2000)
	c := compiled(b, madePolicy(200, len(s.Users)), s)
	i := 0
	for b.Loop() {
		c.Sees(tailnet.NodeID(1+i%2000), tailnet.NodeID(1+i*7%2000))
		i++
	}
}

// BenchmarkRoutes asks as a viewer does that makes a full map: every peer once.
func BenchmarkRoutes(b *testing.B) {
	s := madeTailnet(2000)
	c := compiled(b, madePolicy(200, len(s.Users)), s)
	for b.Loop() {
		for _, n := range s.Nodes {
			c.Routes(1, n.ID)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	text := madePolicy(200, 500)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := policy.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
