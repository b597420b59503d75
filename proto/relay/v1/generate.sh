#!/bin/sh
# Makes the Go file beside the .proto file. Needs protoc (Debian: protobuf-compiler); the plug-in is built into a
# temporary directory, at the version written here.
set -eu
cd "$(dirname "$0")/../.."

GOBIN=$(mktemp -d)
export GOBIN
trap 'rm -rf "$GOBIN"' EXIT
go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11

PATH="$GOBIN:$PATH" protoc -I . --go_out=. --go_opt=paths=source_relative relay/v1/*.proto
