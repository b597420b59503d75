package api

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/reflect/protoreflect"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// doc is an object of a description.
type doc = map[string]any

// descriptions are the table of routes with the messages behind it, for programs and for people. They are made once,
// from the descriptors of the .proto files, so that they cannot differ from what is answered.
type descriptions struct {
	openapiYAML, openapiJSON, swagger, page []byte
}

//go:embed docs.html
var docsPage string

// describe serves the descriptions. They hold no secrets and need no key.
func (g *gateway) describe() {
	made := sync.OnceValues(describeAll)
	serve := func(path, kind string, text func(*descriptions) []byte) {
		g.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			d, err := made()
			if err != nil {
				refuse(w, r, err)
				return
			}
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "public, max-age=300")
			_, _ = w.Write(text(d)) // who hung up reads nothing
		})
	}
	page := func(d *descriptions) []byte { return d.page }
	serve(restPrefix+"/openapi.yaml", "application/yaml", func(d *descriptions) []byte { return d.openapiYAML })
	serve(restPrefix+"/openapi.json", "application/json", func(d *descriptions) []byte { return d.openapiJSON })
	serve("/swagger/v1/openapiv2.json", "application/json", func(d *descriptions) []byte { return d.swagger })
	serve(restPrefix+"/docs", "text/html; charset=utf-8", page)
	serve("/swagger", "text/html; charset=utf-8", page)
}

func describeAll() (*descriptions, error) {
	d := &descriptions{}
	three := openAPI()
	var err error
	if d.openapiJSON, err = json.MarshalIndent(three, "", "  "); err != nil {
		return nil, fmt.Errorf("writing the OpenAPI description: %w", err)
	}
	if d.openapiYAML, err = yaml.Marshal(three); err != nil {
		return nil, fmt.Errorf("writing the OpenAPI description: %w", err)
	}
	if d.swagger, err = json.MarshalIndent(swagger2(), "", "  "); err != nil {
		return nil, fmt.Errorf("writing the Swagger description: %w", err)
	}
	d.page, err = docs()
	return d, err
}

// openAPI is the description in OpenAPI 3.1.
func openAPI() doc {
	l := &language{ref: "#/components/schemas/", three: true}
	paths := l.paths()
	return doc{
		"openapi":  "3.1.0",
		"info":     info(),
		"servers":  []doc{{"url": "/"}},
		"security": []doc{{"bearer": []string{}}},
		"paths":    paths,
		"components": doc{
			"schemas":         l.schemas(),
			"securitySchemes": doc{"bearer": doc{"type": "http", "scheme": "bearer", "description": "an API key, hskey-api-…"}},
		},
	}
}

// swagger2 is the description as releases up to 0.29 gave it. Queries have only what they had there: headplane 0.6 counts
// the parameters of operations to tell which release it speaks to.
func swagger2() doc {
	l := &language{ref: "#/definitions/"}
	paths := l.paths()
	return doc{
		"swagger":             "2.0",
		"info":                info(),
		"consumes":            []string{"application/json"},
		"produces":            []string{"application/json"},
		"security":            []doc{{"bearer": []string{}}},
		"securityDefinitions": doc{"bearer": doc{"type": "apiKey", "name": "Authorization", "in": "header", "description": "Bearer and an API key, hskey-api-…"}},
		"paths":               paths,
		"definitions":         l.schemas(),
	}
}

func info() doc {
	return doc{"title": "headscale API", "version": "v1", "description": "Nodes, users, keys, routes, policies and relays of a headscale server."}
}

// language is one of the two forms of a description. It collects the messages that are referred to.
type language struct {
	ref   string
	three bool
	used  []protoreflect.MessageDescriptor
}

func (l *language) paths() doc {
	paths := doc{}
	service := headscalev1.File_headscale_v1_headscale_proto.Services().ByName("HeadscaleService")
	for _, op := range operations() {
		path := restPrefix + camelPath(op.path)
		if paths[path] == nil {
			paths[path] = doc{}
		}
		paths[path].(doc)[strings.ToLower(op.method)] = l.operation(op, service.Methods().ByName(protoreflect.Name(op.rpc)))
	}
	return paths
}

// camelPath has its wildcards in the names of JSON.
func camelPath(path string) string {
	for _, name := range wildcards(path) {
		path = strings.Replace(path, "{"+name+"}", "{"+camel(name)+"}", 1)
	}
	return path
}

// camel is a field's name as JSON has it.
func camel(name string) string {
	first, rest, more := strings.Cut(name, "_")
	for more {
		var word string
		word, rest, more = strings.Cut(rest, "_")
		first += strings.ToUpper(word[:1]) + word[1:]
	}
	return first
}

func (l *language) operation(op operation, rpc protoreflect.MethodDescriptor) doc {
	family, _, _ := strings.Cut(strings.TrimPrefix(op.path, "/"), "/")
	id := op.rpc
	if op.until != "" {
		id += "_" + strings.NewReplacer("/", "_", "{", "", "}", "").Replace(strings.TrimPrefix(op.path, "/"))
	}
	d := doc{"operationId": id, "tags": []string{family}, "responses": l.responses(op, rpc)}
	var told []string
	if op.until != "" {
		d["deprecated"] = true
		told = append(told, "As in releases up to "+op.until+".")
	}
	if n := needs[op.rpc]; n.scope != "" {
		told = append(told, "Needs the scope "+n.scope+".")
	}
	if n := needs[op.rpc]; n.own != "" {
		told = append(told, "Members may do it with what is their own.")
	}
	if len(told) > 0 {
		d["description"] = strings.Join(told, " ")
	}
	var parameters []doc
	fields := rpc.Input().Fields()
	inPath := wildcards(op.path)
	for _, name := range inPath {
		p := l.parameter(fields.ByName(protoreflect.Name(name)), "path")
		if name == op.user {
			l.typed(p, doc{"type": "string"})
			p["description"] = "ID or name"
		}
		parameters = append(parameters, p)
	}
	if op.method == http.MethodGet || op.method == http.MethodDelete {
		for i := range fields.Len() {
			if f := fields.Get(i); !slices.Contains(inPath, string(f.Name())) && (l.three || f.Number() < firstOurs) {
				parameters = append(parameters, l.parameter(f, "query"))
			}
		}
	} else if fields.Len() > len(inPath) {
		if l.three {
			d["requestBody"] = doc{"content": doc{"application/json": doc{"schema": l.message(rpc.Input())}}}
		} else {
			parameters = append(parameters, doc{"name": "body", "in": "body", "schema": l.message(rpc.Input())})
		}
	}
	if len(parameters) > 0 {
		d["parameters"] = parameters
	}
	return d
}

func (l *language) responses(op operation, rpc protoreflect.MethodDescriptor) doc {
	answer, failure := l.message(rpc.Output()), doc{"$ref": l.ref + "Problem"}
	if op.answer != nil {
		answer = l.message((&headscalev1.CreateUserResponse{}).ProtoReflect().Descriptor())
	}
	if op.older == machineFamily || op.older == namespaceFamily {
		answer = doc{"type": "object", "description": "as today's answer, by the older names"}
	}
	if !l.three {
		return doc{"200": doc{"description": "done", "schema": answer}, "default": doc{"description": "refused, and why", "schema": failure}}
	}
	return doc{
		"200":     doc{"description": "done", "content": doc{"application/json": doc{"schema": answer}}},
		"default": doc{"description": "refused, and why", "content": doc{"application/problem+json": doc{"schema": failure}}},
	}
}

func (l *language) parameter(f protoreflect.FieldDescriptor, in string) doc {
	p := doc{"name": f.JSONName(), "in": in}
	if in == "path" {
		p["required"] = true
	}
	l.typed(p, l.schema(f))
	return p
}

// typed gives a parameter its type: in Swagger it is the parameter's own.
func (l *language) typed(p, schema doc) {
	if l.three {
		p["schema"] = schema
		return
	}
	for _, k := range []string{"type", "format", "items", "enum"} {
		delete(p, k)
	}
	maps.Copy(p, schema)
}

// message refers to a message, and notes that it has to be described.
func (l *language) message(m protoreflect.MessageDescriptor) doc {
	if m.FullName() == "google.protobuf.Timestamp" {
		return doc{"type": "string", "format": "date-time"}
	}
	if !slices.Contains(l.used, m) {
		l.used = append(l.used, m)
	}
	return doc{"$ref": l.ref + string(m.Name())}
}

func (l *language) schema(f protoreflect.FieldDescriptor) doc {
	var d doc
	switch f.Kind() {
	case protoreflect.MessageKind:
		d = l.message(f.Message())
	case protoreflect.BoolKind:
		d = doc{"type": "boolean"}
	case protoreflect.Uint64Kind:
		d = doc{"type": "string", "format": "uint64"}
	case protoreflect.Uint32Kind, protoreflect.Int32Kind:
		d = doc{"type": "integer", "format": "int64"}
	case protoreflect.DoubleKind:
		d = doc{"type": "number", "format": "double"}
	case protoreflect.EnumKind:
		var words []string
		for i := range f.Enum().Values().Len() {
			words = append(words, string(f.Enum().Values().Get(i).Name()))
		}
		d = doc{"type": "string", "enum": words}
	default:
		d = doc{"type": "string"}
	}
	if f.IsList() {
		return doc{"type": "array", "items": d}
	}
	return d
}

// schemas describe the messages that were referred to, and those that they refer to.
func (l *language) schemas() doc {
	all := doc{"Problem": problemSchema()}
	for i := 0; i < len(l.used); i++ { // it grows meanwhile
		m := l.used[i]
		members := doc{}
		for k := range m.Fields().Len() {
			members[m.Fields().Get(k).JSONName()] = l.schema(m.Fields().Get(k))
		}
		texts := doc{"type": "array", "items": doc{"type": "string"}}
		if m.Name() == "Node" {
			members["forcedTags"], members["validTags"], members["invalidTags"] = texts, texts, texts
		}
		all[string(m.Name())] = doc{"type": "object", "properties": members}
	}
	return all
}

func problemSchema() doc {
	text, number := doc{"type": "string"}, doc{"type": "integer"}
	return doc{"type": "object", "description": "RFC 9457, with gRPC's code and the sentence once more for older clients", "properties": doc{
		"type": text, "title": text, "status": number, "detail": text, "instance": text,
		"code": number, "message": text, "details": doc{"type": "array", "items": text},
	}}
}

// docs is the page for people.
func docs() ([]byte, error) {
	type row struct{ Method, Path, Takes, Gives, Until string }
	service := headscalev1.File_headscale_v1_headscale_proto.Services().ByName("HeadscaleService")
	var today, older []row
	for _, op := range operations() {
		rpc := service.Methods().ByName(protoreflect.Name(op.rpc))
		r := row{op.method, restPrefix + camelPath(op.path), members(rpc.Input(), wildcards(op.path)), members(rpc.Output(), nil), op.until}
		if op.until == "" {
			today = append(today, r)
		} else {
			older = append(older, r)
		}
	}
	page, err := template.New("docs").Parse(docsPage)
	if err != nil {
		return nil, fmt.Errorf("reading the page of the API: %w", err)
	}
	var out strings.Builder
	if err := page.Execute(&out, map[string]any{"Today": today, "Older": older}); err != nil {
		return nil, fmt.Errorf("writing the page of the API: %w", err)
	}
	return []byte(out.String()), nil
}

func members(m protoreflect.MessageDescriptor, but []string) string {
	var names []string
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); !slices.Contains(but, string(f.Name())) {
			names = append(names, f.JSONName())
		}
	}
	return strings.Join(names, ", ")
}
