package api

import (
	"context"
	"errors"
	"slices"
	"strings"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// CreateUser makes a user.
func (s *Server) CreateUser(ctx context.Context, req *headscalev1.CreateUserRequest) (*headscalev1.CreateUserResponse, error) {
	if err := tailnet.ValidateUserName(req.GetName()); err != nil {
		return nil, invalid("%w", err)
	}
	if err := errors.Join(checkRole(req.GetRole()), access.Of(ctx).CheckRole(req.GetRole())); err != nil {
		return nil, err
	}
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	u, err := s.cfg.Store.CreateUser(ctx, tailnet.User{
		TailnetID:     t.ID,
		Name:          req.GetName(),
		DisplayName:   req.GetDisplayName(),
		Email:         req.GetEmail(),
		ProfilePicURL: req.GetPictureUrl(),
		Role:          req.GetRole(),
	})
	if err != nil {
		return nil, err
	}
	m, err := s.userMessage(ctx, u)
	return &headscalev1.CreateUserResponse{User: m}, err
}

// RenameUser gives a user another name.
func (s *Server) RenameUser(ctx context.Context, req *headscalev1.RenameUserRequest) (*headscalev1.RenameUserResponse, error) {
	u, err := s.managed(ctx, req.GetOldId())
	if err != nil {
		return nil, err
	}
	if err := tailnet.ValidateUserName(req.GetNewName()); err != nil {
		return nil, invalid("%w", err)
	}
	if u, err = s.cfg.Store.RenameUser(ctx, u.ID, req.GetNewName()); err != nil {
		return nil, err
	}
	m, err := s.userMessage(ctx, u)
	return &headscalev1.RenameUserResponse{User: m}, err
}

// managed finds a user that the caller may change.
func (s *Server) managed(ctx context.Context, id uint64) (*tailnet.User, error) {
	u, err := s.user(ctx, id)
	if err != nil {
		return nil, err
	}
	return u, access.Of(ctx).CheckRole(u.Role)
}

// roles are those of tailnet.User.Role; empty means member.
var roles = []string{"owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor", "member"}

func checkRole(role string) error {
	if role != "" && !slices.Contains(roles, role) {
		return invalid("there is no role %q: use one of %s", role, strings.Join(roles, ", "))
	}
	return nil
}

// SetUserRole says what a user may do.
func (s *Server) SetUserRole(ctx context.Context, req *headscalev1.SetUserRoleRequest) (*headscalev1.SetUserRoleResponse, error) {
	u, err := s.managed(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkRole(req.GetRole()), access.Of(ctx).CheckRole(req.GetRole())); err != nil {
		return nil, err
	}
	changed := *u
	changed.Role = req.GetRole()
	if u, err = s.cfg.Store.UpdateUser(ctx, changed); err != nil {
		return nil, err
	}
	m, err := s.userMessage(ctx, u)
	return &headscalev1.SetUserRoleResponse{User: m}, err
}

// DeleteUser deletes a user without nodes, and the user's pre-auth keys.
func (s *Server) DeleteUser(ctx context.Context, req *headscalev1.DeleteUserRequest) (*headscalev1.DeleteUserResponse, error) {
	u, err := s.managed(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.DeleteUser(ctx, u.ID); err != nil {
		return nil, err
	}
	return &headscalev1.DeleteUserResponse{}, nil
}

// ListUsers lists users, filtered by every member of the request that is set.
func (s *Server) ListUsers(ctx context.Context, req *headscalev1.ListUsersRequest) (*headscalev1.ListUsersResponse, error) {
	scope := req.GetTailnet()
	if scope == "" && req.GetId() != 0 {
		scope = allTailnets
	}
	id, err := s.tailnetOrAll(ctx, scope)
	if err != nil {
		return nil, err
	}
	users, err := s.usersIn(ctx, store.UserFilter{
		TailnetID: id,
		ID:        tailnet.UserID(req.GetId()),
		Name:      req.GetName(),
		Email:     req.GetEmail(),
	})
	if err != nil {
		return nil, err
	}
	users = slices.DeleteFunc(users, func(u *tailnet.User) bool { return !access.Of(ctx).Owns(u.ID) })
	users, next, err := page(req, users, func(u *tailnet.User) place { return place{number: uint64(u.ID)} })
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	return &headscalev1.ListUsersResponse{Users: n.usersOf(users), NextPageToken: next}, nil
}

func (s *Server) userMessage(ctx context.Context, u *tailnet.User) (*headscalev1.User, error) {
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	return n.user(u), nil
}
