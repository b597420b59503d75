#!/bin/sh
# proto/generate.sh DIR makes the Go files beside the .proto files of a directory of proto/. Needs protoc (Debian:
# protobuf-compiler); the plug-ins are built into a temporary directory, at the versions written here.
set -eu
cd "$(dirname "$0")"

GOBIN=$(mktemp -d)
export GOBIN
trap 'rm -rf "$GOBIN"' EXIT
go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0

PATH="$GOBIN:$PATH" protoc -I . \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative \
	"$1"/*.proto
