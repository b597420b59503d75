package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// shape is the JSON of the API: camelCase, ids as strings, times in RFC 3339, empty members present.
var shape = protojson.MarshalOptions{EmitUnpopulated: true}

// show writes an answer: the sentence for people, the message for programs.
func (c *cli) show(sentence string, m proto.Message) error {
	if c.output == "" {
		return c.say("%s", sentence)
	}
	plain, object := c.said029(sentence, m)
	if plain {
		return c.say("%s", sentence)
	}
	if object != nil {
		return c.showAny(sentence, object)
	}
	data, err := c.encode(m)
	if err != nil {
		return err
	}
	return c.write(data)
}

// showAny is show for an answer that is no message.
func (c *cli) showAny(sentence string, v any) error {
	if c.output == "" {
		return c.say("%s", sentence)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return c.write(data)
}

// showList writes a list: as a table for people, as an array for programs.
func showList[M proto.Message](c *cli, list []M, t *table) error {
	if c.output == "" {
		return t.write(c.out, c.colour())
	}
	items := make([]json.RawMessage, len(list))
	for i, m := range list {
		var err error
		if items[i], err = c.encode(m); err != nil {
			return err
		}
	}
	return c.showAny("", items)
}

// raw is each message in the shape of the API.
func raw[M proto.Message](list []M) ([]json.RawMessage, error) {
	items := make([]json.RawMessage, len(list))
	for i, m := range list {
		data, err := shape.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("writing the answer: %w", err)
		}
		items[i] = data
	}
	return items, nil
}

// write brings JSON into the form that was asked for. It is made anew, because protojson varies its blanks on purpose.
func (c *cli) write(data []byte) error {
	var out bytes.Buffer
	var err error
	switch c.output {
	case "yaml":
		var y []byte
		y, err = yaml.JSONToYAML(data)
		out.Write(y)
		if err == nil && !bytes.HasSuffix(y, []byte("\n")) {
			out.WriteByte('\n')
		}
	case "json-line":
		err = json.Compact(&out, data)
		out.WriteByte('\n')
	default:
		indent := "  "
		if c.compat == compat029 {
			indent = "\t"
		}
		err = json.Indent(&out, data, "", indent)
		out.WriteByte('\n')
	}
	if err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	_, err = c.out.Write(out.Bytes())
	return err
}

// say writes a line for people.
func (c *cli) say(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format+"\n", args...)
	return err
}

// warn writes a line beside the answer.
func (c *cli) warn(format string, args ...any) {
	fmt.Fprintf(c.err, "Warning: "+format+"\n", args...)
}

// colour reports whether the output may have colours.
func (c *cli) colour() bool { return isTerminal(c.out) && c.getenv("NO_COLOR") == "" }

// maxLine bounds an answer, in bytes.
const maxLine = 1 << 10

// confirm asks before what cannot be undone.
func (c *cli) confirm(format string, args ...any) (bool, error) {
	if c.force {
		return true, nil
	}
	question := fmt.Sprintf(format, args...)
	if !isTerminal(c.in) {
		return false, fmt.Errorf("nobody can answer here: %q; to go on without being asked, add --force", question)
	}
	fmt.Fprintf(c.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(c.in, maxLine)).ReadString('\n')
	if err != nil && line == "" {
		return false, nil // the end of input is a no
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}
