package hscontrol

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keelscale/keelscale/hscontrol/control"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
)

// pipeline tells Prometheus how changes get from the store to the nodes, stage by stage.
type pipeline struct {
	store   *store.Store
	state   *state.State
	control *control.Control
}

var (
	stageDesc    = pipelineDesc("stage_seconds", "What the stages of a change took: commit of a group to the store, publish of views, encode and send of map responses.", "stage")
	writtenDesc  = pipelineDesc("writes_total", "Operations written to the store.")
	waitingDesc  = pipelineDesc("writes_waiting", "Operations that wait for the next commit.")
	bytesDesc    = pipelineDesc("map_bytes_total", "Bytes of map responses sent.")
	revisionDesc = pipelineDesc("revision", "Revision of a tailnet that is published here.", "tailnet")
	behindDesc   = pipelineDesc("behind_views", "How many views the session that is furthest behind has not been told of.")
	sinceDesc    = pipelineDesc("behind_seconds", "For how long that session has been behind.")
)

func pipelineDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("headscale_"+name, help, labels, nil)
}

// maxRevisions is up to how many tailnets their revisions are shown one by one.
const maxRevisions = 1000

func (pipeline) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stageDesc, writtenDesc, waitingDesc, bytesDesc, revisionDesc, behindDesc, sinceDesc} {
		out <- d
	}
}

func (p pipeline) Collect(out chan<- prometheus.Metric) {
	stage := func(name string, count uint64, took time.Duration) {
		out <- prometheus.MustNewConstSummary(stageDesc, count, took.Seconds(), nil, name)
	}
	value := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	written := p.store.Stats()
	published, took := p.state.Published()
	polls := p.control.Stats(time.Now())
	stage("commit", written.Groups, written.Took)
	stage("publish", published, took)
	stage("encode", polls.Encode.Count, polls.Encode.Took)
	stage("send", polls.Send.Count, polls.Send.Took)
	value(writtenDesc, prometheus.CounterValue, float64(written.Operations))
	value(waitingDesc, prometheus.GaugeValue, float64(written.Waiting))
	value(bytesDesc, prometheus.CounterValue, float64(polls.SentBytes))
	value(behindDesc, prometheus.GaugeValue, float64(polls.BehindViews))
	value(sinceDesc, prometheus.GaugeValue, polls.Behind.Seconds())
	for i, v := range p.state.Views() {
		if i == maxRevisions {
			return
		}
		value(revisionDesc, prometheus.GaugeValue, float64(v.Rev), strconv.FormatUint(uint64(v.Tailnet.ID), 10))
	}
}
