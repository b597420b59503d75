package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// usersCommand is the group users, or namespaces, as headscale 0.15 called it and still answered to in 0.28.
func (c *cli) usersCommand(g generation) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "users",
		Aliases: []string{"user"},
		Short:   "the users that nodes belong to",
		Long:    "Users own nodes and pre-auth keys. Older releases call them namespaces: the group is also there as namespaces, namespace and ns.",
	})
	noun := "User"
	if g == legacy {
		noun = "Namespace"
		cmd.Use, cmd.Aliases, cmd.Hidden = "namespaces", []string{"namespace", "ns"}, true
		cmd.Annotations = map[string]string{legacyNote: "users"}
	}
	c.withTailnet(cmd, " (default: default; '*' lists all)")
	cmd.AddCommand(c.userCreate(noun), c.userList(g), c.userDestroy(noun), c.userRename(noun), c.userRole())
	return cmd
}

func (c *cli) userCreate(noun string) *cobra.Command {
	req := &headscalev1.CreateUserRequest{}
	cmd := &cobra.Command{
		Use:     "create NAME",
		Aliases: []string{"c", "new"},
		Short:   "make a user",
		Args:    exactly(1, "the name of the user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.Tailnet = args[0], c.tailnet
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.CreateUser(ctx, req)
				if err != nil {
					return err
				}
				return c.show(noun+" created", resp.GetUser())
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&req.DisplayName, "display-name", "d", "", "`name` to show")
	f.StringVarP(&req.Email, "email", "e", "", "mail `address`")
	f.StringVarP(&req.PictureUrl, "picture-url", "p", "", "`address` of a picture")
	f.StringVar(&req.Role, "role", "", "`role`: owner, admin, it-admin, network-admin, billing-admin, auditor or member")
	return cmd
}

// which are the flags that say which users are meant.
type which struct{ id, name, email string }

func (w *which) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&w.id, "identifier", "i", "", "`ID` of the user")
	f.StringVarP(&w.name, "name", "n", "", "`name` of the user")
}

func (c *cli) userList(g generation) *cobra.Command {
	var w which
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list users",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &headscalev1.ListUsersRequest{Name: w.name, Email: w.email, Tailnet: c.tailnet}
			if w.id != "" {
				var err error
				if req.Id, err = parseID(w.id, "users list"); err != nil {
					return err
				}
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListUsers(ctx, req)
				if err != nil {
					return err
				}
				return showList(c, resp.GetUsers(), c.userTable(g, resp.GetUsers()))
			})
		},
	}
	w.flags(cmd)
	cmd.Flags().StringVarP(&w.email, "email", "e", "", "mail `address` of the user")
	return cmd
}

func (c *cli) userTable(g generation, users []*headscalev1.User) *table {
	t := newTable("ID", "Name", "Username", "Email", "Created")
	if g == legacy {
		t = newTable("ID", "Name", "Created")
	}
	if c.tailnet == "*" {
		t.head = append(t.head, "Tailnet")
	}
	for _, u := range users {
		row := []string{strconv.FormatUint(u.GetId(), 10), u.GetDisplayName(), u.GetName(), u.GetEmail(), when(u.GetCreatedAt(), "")}
		if g == legacy {
			row = []string{row[0], u.GetName(), row[4]}
		}
		if c.tailnet == "*" {
			row = append(row, u.GetTailnet())
		}
		t.add(row...)
	}
	return t
}

func (c *cli) userDestroy(noun string) *cobra.Command {
	var w which
	cmd := &cobra.Command{
		Use:     "destroy [NAME]",
		Aliases: []string{"delete"},
		Short:   "delete a user who has no nodes",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := c.findUser(cmd.Context(), w, args)
			if err != nil {
				return err
			}
			ok, err := c.confirm("Do you want to remove the user %q (%d) and any associated preauthkeys?", u.GetName(), u.GetId())
			if err != nil {
				return err
			}
			if !ok {
				return c.say("%s not destroyed", noun)
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DeleteUser(ctx, &headscalev1.DeleteUserRequest{Id: u.GetId()})
				if err != nil {
					return err
				}
				return c.show(noun+" destroyed", resp)
			})
		},
	}
	w.flags(cmd)
	return cmd
}

func (c *cli) userRename(noun string) *cobra.Command {
	var w which
	var newName string
	cmd := &cobra.Command{
		Use:     "rename [OLD] NEW",
		Aliases: []string{"mv"},
		Short:   "give a user another name",
		Long:    "Renames a user: headscale users rename OLD NEW, or headscale users rename -i ID -r NEW.",
		Args:    atMost(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if newName == "" && len(args) > 0 {
				newName, args = args[len(args)-1], args[:len(args)-1]
			}
			if newName == "" {
				return errors.New("say the new name: headscale users rename OLD NEW")
			}
			u, err := c.findUser(cmd.Context(), w, args)
			if err != nil {
				return err
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.RenameUser(ctx, &headscalev1.RenameUserRequest{OldId: u.GetId(), NewName: newName})
				if err != nil {
					return err
				}
				return c.show(noun+" renamed", resp.GetUser())
			})
		},
	}
	w.flags(cmd)
	cmd.Flags().StringVarP(&newName, "new-name", "r", "", "new `name` of the user")
	return cmd
}

func (c *cli) userRole() *cobra.Command {
	var w which
	cmd := &cobra.Command{
		Use:   "set-role [NAME] ROLE",
		Short: "say what a user may do: owner, admin, it-admin, network-admin, billing-admin, auditor or member",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("say the role: %s", cmd.UseLine())
			}
			return atMost(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := c.findUser(cmd.Context(), w, args[:len(args)-1])
			if err != nil {
				return err
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.SetUserRole(ctx, &headscalev1.SetUserRoleRequest{Id: u.GetId(), Role: args[len(args)-1]})
				if err != nil {
					return err
				}
				return c.show("User updated", resp.GetUser())
			})
		},
	}
	w.flags(cmd)
	return cmd
}

// findUser finds the one user that flags or the argument name. A number may be an ID or a name: where both exist, it
// must be said which, for the command may delete.
func (c *cli) findUser(ctx context.Context, w which, args []string) (*headscalev1.User, error) {
	var queries []*headscalev1.ListUsersRequest
	named := ""
	switch {
	case len(args) > 0 && (w.id != "" || w.name != ""):
		return nil, errors.New("say the user once: as an argument, with --name, or with --identifier")
	case len(args) > 0:
		named = args[0]
		queries = append(queries, &headscalev1.ListUsersRequest{Name: named, Tailnet: c.tailnet})
		if id, err := strconv.ParseUint(named, 10, 64); err == nil && id != 0 {
			queries = append(queries, &headscalev1.ListUsersRequest{Id: id})
		}
	case w.id == "" && w.name == "":
		return nil, errors.New("say which user: by name, or by ID with -i")
	default:
		q := &headscalev1.ListUsersRequest{Name: w.name, Tailnet: c.tailnet}
		if w.id != "" {
			var err error
			if q.Id, err = parseID(w.id, "users list"); err != nil {
				return nil, err
			}
		}
		named = firstOf(w.name, w.id)
		queries = append(queries, q)
	}
	found := map[uint64]*headscalev1.User{}
	err := c.ask(ctx, func(ctx context.Context, server client) error {
		for _, q := range queries {
			resp, err := server.ListUsers(ctx, q)
			if err != nil {
				return err
			}
			for _, u := range resp.GetUsers() {
				found[u.GetId()] = u
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, u := range found {
		if len(found) == 1 {
			return u, nil
		}
		return nil, fmt.Errorf("%q is the name of one user and the ID of another: say which with -n or -i", named)
	}
	return nil, fmt.Errorf("there is no user %q: see headscale users list", named)
}

// exactly asks for so many arguments, in words.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < n:
			return fmt.Errorf("say %s: %s", what, cmd.UseLine())
		case len(args) > n:
			return fmt.Errorf("%q is one word too many: %s", args[n], cmd.UseLine())
		}
		return nil
	}
}

// atMost is exactly for arguments that may be left out.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("%q is one word too many: %s", args[n], cmd.UseLine())
		}
		return nil
	}
}
