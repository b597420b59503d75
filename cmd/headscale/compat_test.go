package main

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// TestOlderJSON holds the older form to what it was: the JSON that Go makes of a generated struct.
func TestOlderJSON(t *testing.T) {
	user := &headscalev1.User{Id: 1<<63 + 1, Name: `a "b" <c> 盒`, CreatedAt: &timestamppb.Timestamp{Seconds: -7, Nanos: 5}}
	for _, m := range []proto.Message{
		&headscalev1.User{}, user,
		&headscalev1.Node{Id: 7, User: user, IpAddresses: []string{"100.64.0.1", ""}, Expiry: &timestamppb.Timestamp{}, Online: true,
			RegisterMethod: headscalev1.RegisterMethod_REGISTER_METHOD_OIDC, PreAuthKey: &headscalev1.PreAuthKey{User: user, AclTags: []string{"tag:x"}}},
		&headscalev1.HealthResponse{DatabaseConnectivity: true},
		&headscalev1.BackfillNodeIPsResponse{Changes: []string{"a", "b"}},
		&headscalev1.Tailnet{Id: 1, Nodes: 3},
	} {
		want, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := (older{}).message(nil, m.ProtoReflect()); string(got) != string(want) {
			t.Errorf("%T: got %s, want %s", m, got, want)
		}
	}
	ours := &headscalev1.Node{Id: 7, Tailnet: "default", Ephemeral: true, NamePinned: true, Unauthorized: true}
	if got := string((older{}).message(nil, ours.ProtoReflect())); got != `{"id":7}` {
		t.Errorf("got %s, want none of our own members", got)
	}
}

// TestOlderFormHasEveryKind writes every message of the service in both older forms.
func TestOlderFormHasEveryKind(t *testing.T) {
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if mt.Descriptor().ParentFile().Package() != "headscale.v1" {
			return true
		}
		for _, yaml := range []bool{false, true} {
			if got := (older{yaml: yaml}).message(nil, mt.New()); !json.Valid(got) {
				t.Errorf("%s: got %s, want JSON", mt.Descriptor().Name(), got)
			}
		}
		return true
	})
}
