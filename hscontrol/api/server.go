package api

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// Health says whether the database answers and, to those who may see all tailnets and the server's status, what else is
// not as it should be.
func (s *Server) Health(ctx context.Context, _ *headscalev1.HealthRequest) (*headscalev1.HealthResponse, error) {
	resp := &headscalev1.HealthResponse{DatabaseConnectivity: true}
	if err := s.cfg.Store.Ping(ctx); err != nil {
		resp.DatabaseConnectivity = false
		resp.Faults = append(resp.Faults, &headscalev1.Fault{
			Name:   "database",
			Text:   fmt.Sprintf("the database does not answer: %v", err),
			Severe: true,
		})
	}
	if s.cfg.Health == nil || everything(ctx) != nil || !access.Of(ctx).May("feature_settings:read") {
		return resp, nil
	}
	for _, f := range s.cfg.Health(ctx) {
		resp.Faults = append(resp.Faults, &headscalev1.Fault{Name: f.Name, Text: f.Text, Severe: f.Severe})
	}
	return resp, nil
}

// GetStatus says with what the server runs.
func (s *Server) GetStatus(ctx context.Context, _ *headscalev1.GetStatusRequest) (*headscalev1.GetStatusResponse, error) {
	if s.cfg.Status == nil {
		return nil, unwired("status")
	}
	if err := everything(ctx); err != nil {
		return nil, err
	}
	st := s.cfg.Status()
	return &headscalev1.GetStatusResponse{
		Version:     st.Version,
		StartedAt:   timestamp(&st.StartedAt),
		ConfigFile:  st.ConfigFile,
		ServerUrl:   st.ServerURL,
		ReloadedAt:  timestamp(&st.ReloadedAt),
		ReloadError: st.ReloadError,
	}, nil
}

// Reload reads the configuration again.
func (s *Server) Reload(ctx context.Context, _ *headscalev1.ReloadRequest) (*headscalev1.ReloadResponse, error) {
	if s.cfg.Reload == nil {
		return nil, unwired("configuration to reload")
	}
	if err := everything(ctx); err != nil {
		return nil, err
	}
	done, err := s.cfg.Reload(ctx)
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "nothing was changed: %v", err)
	}
	return &headscalev1.ReloadResponse{Applied: done.Applied, NeedsRestart: done.NeedsRestart}, nil
}

// GetDERPMap shows the map as clients get it, or as one of them does.
func (s *Server) GetDERPMap(ctx context.Context, req *headscalev1.GetDERPMapRequest) (*headscalev1.GetDERPMapResponse, error) {
	if s.cfg.DERPMap == nil {
		return nil, unwired("DERP map")
	}
	m := s.cfg.DERPMap()
	if req.GetNodeId() != 0 {
		n, err := s.node(ctx, req.GetNodeId())
		if err != nil {
			return nil, err
		}
		v := s.cfg.View(n.TailnetID)
		if v == nil {
			return nil, fmt.Errorf("%w: tailnet %d", tailnet.ErrNotFound, n.TailnetID)
		}
		m = v.DERPMapOf(n.ID)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing the DERP map: %w", err)
	}
	return &headscalev1.GetDERPMapResponse{Json: string(text)}, nil
}
