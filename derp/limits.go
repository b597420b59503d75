package derp

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"time"

	"golang.org/x/time/rate"
	"tailscale.com/derp"
)

// minBurst is the least that a client may send at once: one packet of the largest size.
const minBurst = derp.MaxPacketSize + derp.KeyLen

// sourceBurst is the least burst that a client is told to keep to. What it holds back it
// throws away, so it is told of a wider bound than the one that the relay holds by reading
// more slowly.
const sourceBurst = 512 << 10

// limiter is the bound on one client; nil when there is none.
func (v Rate) limiter() *rate.Limiter {
	if v.PerClient == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(v.PerClient), int(min(max(v.Burst, minBurst), math.MaxInt32)))
}

// bucket is what a client is told to keep to, as in derp.ServerInfo.
func (v Rate) bucket() derp.ServerInfo {
	info := derp.ServerInfo{Version: derp.ProtocolVersion}
	if v.PerClient > 0 {
		info.TokenBucketBytesPerSecond = int(min(v.PerClient, math.MaxInt32))
		info.TokenBucketBytesBurst = int(min(max(v.Burst, 2*v.PerClient, sourceBurst), math.MaxInt32))
	}
	return info
}

// await waits until n bytes fit the client's bound, or the connection ends. Meanwhile nothing
// is read, and TCP holds the sender back.
func (c *client) await(l *rate.Limiter, n int) error {
	r := l.ReserveN(time.Now(), min(n, minBurst))
	d := r.Delay()
	if d <= 0 {
		return nil
	}
	c.eng.count.rateWaits.Add(1)
	c.settle()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.gone:
		return net.ErrClosed
	}
}

// LoadRate reads a Rate from a JSON file, the -rate-config of cmd/derper.
func LoadRate(path string) (Rate, error) {
	f, err := os.Open(path)
	if err != nil {
		return Rate{}, fmt.Errorf("reading the rate file: %w", err)
	}
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, 64<<10))
	dec.DisallowUnknownFields()
	var v Rate
	if err := dec.Decode(&v); err != nil {
		return Rate{}, fmt.Errorf("parsing the rate file %s: %w", path, err)
	}
	if v.PerClient > math.MaxInt64 || v.Burst > math.MaxInt64 {
		return Rate{}, fmt.Errorf("the rate file %s has a rate that is too large", path)
	}
	return v, nil
}
