package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"gorm.io/gorm/schema"
)

// cell is a field of a row as the database sees it: what it writes is what it can read. Zero values of references,
// texts, lists and times are NULL.
type cell interface {
	driver.Valuer
	sql.Scanner
}

type textual interface {
	encoding.TextMarshaler
	encoding.TextUnmarshaler
}

// number is an integer, not null.
func number[T ~int | ~uint64](p *T) cell { return numberCell[T]{p, false} }

// ref is the ID of another row; zero is NULL.
func ref[T ~uint64](p *T) cell { return numberCell[T]{p, true} }

type numberCell[T ~int | ~uint64] struct {
	p    *T
	null bool // whether zero is NULL
}

func (c numberCell[T]) Value() (driver.Value, error) {
	if c.null && *c.p == 0 {
		return nil, nil
	}
	return int64(*c.p), nil
}

func (c numberCell[T]) Scan(v any) error {
	switch v := v.(type) {
	case int64:
		*c.p = T(v)
	case nil:
		*c.p = 0
	default:
		return fmt.Errorf("%T is no number", v)
	}
	return nil
}

// word is a string, not null.
func word[T ~string](p *T) cell { return wordCell[T]{p} }

type wordCell[T ~string] struct{ p *T }

func (c wordCell[T]) Value() (driver.Value, error) { return string(*c.p), nil }
func (c wordCell[T]) Scan(v any) error {
	b, err := bytesOf(v)
	*c.p = T(b)
	return err
}

// flag is a boolean, not null.
func flag(p *bool) cell { return flagCell{p} }

type flagCell struct{ p *bool }

func (c flagCell) Value() (driver.Value, error) { return *c.p, nil }
func (c flagCell) Scan(v any) error {
	b, err := driver.Bool.ConvertValue(v)
	if err == nil {
		*c.p = b.(bool)
	}
	return err
}

// text is what writes itself as text: keys, addresses, prefixes. The zero value is NULL.
func text(p textual) cell { return textCell{p} }

type textCell struct{ p textual }

func (c textCell) Value() (driver.Value, error) {
	if isZero(c.p) {
		return nil, nil
	}
	b, err := c.p.MarshalText()
	return string(b), err
}

func (c textCell) Scan(v any) error {
	if v == nil {
		return nil
	}
	b, err := bytesOf(v)
	if err != nil {
		return err
	}
	return c.p.UnmarshalText(b)
}

func isZero(v any) bool {
	switch v := v.(type) {
	case *netip.Addr:
		return !v.IsValid()
	case *netip.Prefix:
		return !v.IsValid()
	case interface{ IsZero() bool }:
		return v.IsZero()
	}
	return false
}

// list is a slice as JSON; without elements it is NULL.
func list[T any](p *[]T) cell { return listCell[T]{p} }

type listCell[T any] struct{ p *[]T }

func (c listCell[T]) Value() (driver.Value, error) {
	if len(*c.p) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(*c.p)
	return string(b), err
}
func (c listCell[T]) Scan(v any) error { return scanJSON(v, c.p) }

// document is a struct as JSON; nil is NULL.
func document[T any](p **T) cell { return documentCell[T]{p} }

type documentCell[T any] struct{ p **T }

func (c documentCell[T]) Value() (driver.Value, error) {
	if *c.p == nil {
		return nil, nil
	}
	b, err := json.Marshal(*c.p)
	return string(b), err
}
func (c documentCell[T]) Scan(v any) error { return scanJSON(v, c.p) }

func scanJSON(v, into any) error {
	if v == nil {
		return nil
	}
	b, err := bytesOf(v)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// instant is a time, not null.
func instant(p *time.Time) cell { return instantCell{p} }

type instantCell struct{ p *time.Time }

func (c instantCell) Value() (driver.Value, error) { return *c.p, nil }
func (c instantCell) Scan(v any) error {
	t, ok := v.(time.Time)
	if !ok {
		return fmt.Errorf("%T is no time", v)
	}
	*c.p = t.UTC()
	return nil
}

// maybe is a time that may be missing: nil and the zero time are NULL.
func maybe(p **time.Time) cell { return maybeCell{p} }

type maybeCell struct{ p **time.Time }

func (c maybeCell) Value() (driver.Value, error) {
	if *c.p == nil || (*c.p).IsZero() {
		return nil, nil
	}
	return **c.p, nil
}

func (c maybeCell) Scan(v any) error {
	if v == nil {
		*c.p = nil
		return nil
	}
	t, ok := v.(time.Time)
	if !ok {
		return fmt.Errorf("%T is no time", v)
	}
	t = t.UTC()
	*c.p = &t
	return nil
}

func bytesOf(v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		return []byte(v), nil
	case []byte:
		return v, nil
	}
	return nil, fmt.Errorf("%T is no text", v)
}

// textSerializer makes of gorm's tag serializer:text what text is for nodes.
type textSerializer struct{}

func (textSerializer) Scan(ctx context.Context, f *schema.Field, row reflect.Value, v any) error {
	return scanField(ctx, f, row, v, func(p any) cell { return text(p.(textual)) })
}

func (textSerializer) Value(_ context.Context, _ *schema.Field, _ reflect.Value, v any) (any, error) {
	p := reflect.New(reflect.TypeOf(v))
	p.Elem().Set(reflect.ValueOf(v))
	return text(p.Interface().(textual)).Value()
}

// refSerializer makes of gorm's tag serializer:ref what ref is for nodes.
type refSerializer struct{}

func (refSerializer) Scan(ctx context.Context, f *schema.Field, row reflect.Value, v any) error {
	id, ok := v.(int64)
	if !ok && v != nil {
		return rowError(ctx, f, row, fmt.Errorf("%T is no number", v))
	}
	f.ReflectValueOf(ctx, row).SetUint(uint64(id))
	return nil
}

func (refSerializer) Value(_ context.Context, _ *schema.Field, _ reflect.Value, v any) (any, error) {
	id := reflect.ValueOf(v).Uint()
	return numberCell[uint64]{&id, true}.Value()
}

// docSerializer makes of gorm's tag serializer:doc what list and document are for nodes.
type docSerializer struct{}

func (docSerializer) Scan(ctx context.Context, f *schema.Field, row reflect.Value, v any) error {
	if err := scanJSON(v, f.ReflectValueOf(ctx, row).Addr().Interface()); err != nil {
		return rowError(ctx, f, row, err)
	}
	return nil
}

func (docSerializer) Value(_ context.Context, _ *schema.Field, _ reflect.Value, v any) (any, error) {
	r := reflect.ValueOf(v)
	if (r.Kind() == reflect.Slice || r.Kind() == reflect.Map) && r.Len() == 0 || r.Kind() == reflect.Pointer && r.IsNil() {
		return nil, nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}

// wordsSerializer keeps a list of words with blanks between them. It is never NULL.
type wordsSerializer struct{}

func (wordsSerializer) Scan(ctx context.Context, f *schema.Field, row reflect.Value, v any) error {
	b, err := bytesOf(v)
	if err != nil {
		return rowError(ctx, f, row, err)
	}
	f.ReflectValueOf(ctx, row).Set(reflect.ValueOf(strings.Fields(string(b))))
	return nil
}

func (wordsSerializer) Value(_ context.Context, _ *schema.Field, _ reflect.Value, v any) (any, error) {
	return strings.Join(v.([]string), " "), nil
}

func scanField(ctx context.Context, f *schema.Field, row reflect.Value, v any, as func(any) cell) error {
	if err := as(f.ReflectValueOf(ctx, row).Addr().Interface()).Scan(v); err != nil {
		return rowError(ctx, f, row, err)
	}
	return nil
}

// rowError says which row could not be read. Its ID, the first column, was read before.
func rowError(ctx context.Context, f *schema.Field, row reflect.Value, err error) error {
	id, _ := f.Schema.PrioritizedPrimaryField.ValueOf(ctx, row)
	return fmt.Errorf("table %s, row %v, column %s: %w", f.Schema.Table, id, f.DBName, err)
}

// badRow says which row rows.Scan could not read, and which column of it, which database/sql only has in its words.
func badRow(table string, id uint64, err error) error {
	var index int
	var column string
	if _, no := fmt.Sscanf(err.Error(), "sql: Scan error on column index %d, name %q:", &index, &column); no != nil {
		return fmt.Errorf("table %s, row %d: %w", table, id, err)
	}
	return fmt.Errorf("table %s, row %d, column %s: %w", table, id, column, errors.Unwrap(err))
}
