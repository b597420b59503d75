package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// Bounds of the file of extra DNS records: its size in bytes, and how many faults of it are told.
const (
	maxRecords      = 4 << 20
	maxRecordFaults = 20
)

// ReadRecords reads the file that ExtraRecordsPath names. Its records are held to what those of ExtraRecords
// are; the error is an *[Error] with the entries that are wrong, or says why the file could not be read.
func (dns *DNS) ReadRecords() ([]ExtraRecord, error) {
	text, err := readFile(dns.ExtraRecordsPath, maxRecords)
	if err != nil {
		return nil, fmt.Errorf("reading dns.extra_records_path: %w", err)
	}
	return parseRecords(dns.ExtraRecordsPath, text, dns.BaseDomain)
}

// parseRecords reads the content of such a file. Fields that are no part of a record are skipped, as in headscale.
func parseRecords(path string, text []byte, baseDomain string) ([]ExtraRecord, error) {
	var list []struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("reading dns.extra_records_path %s: %w; it should be a JSON list like [{\"name\": \"db.example.com\", \"type\": \"A\", \"value\": \"100.64.0.1\"}]", path, err)
	}
	records := make([]ExtraRecord, 0, len(list))
	r := &report{}
	for i, entry := range list {
		value, _ := netip.ParseAddr(entry.Value) // not valid where it is none
		record := ExtraRecord{Name: entry.Name, Type: entry.Type, Value: value}
		record.normalize()
		records = append(records, record)
		fault := record.fault(baseDomain)
		if fault == "" {
			continue
		}
		if len(r.problems) == maxRecordFaults {
			r.problem(Position{File: path}, "dns.extra_records_path: more entries are wrong")
			break
		}
		r.problem(Position{File: path}, "dns.extra_records_path: entry %d: %s", i+1, fault)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return records, nil
}

// fault says what is wrong with a record, and what to do about it; nothing if it is as it should be.
func (r ExtraRecord) fault(baseDomain string) string {
	switch {
	case !validDomain(r.Name):
		return fmt.Sprintf("%q is no name; write a full one like grafana.%s", r.Name, baseDomain)
	case r.Type != "" && r.Type != "A" && r.Type != "AAAA":
		return fmt.Sprintf("%s is of type %s; clients answer A and AAAA only", r.Name, r.Type)
	case !r.Value.IsValid():
		return fmt.Sprintf("%s has no address; write it behind value", r.Name)
	case r.Value.Is4() != (r.Type == "A"):
		return fmt.Sprintf("%s: %s is no address for type %s; A takes IPv4, AAAA takes IPv6", r.Name, r.Value, r.Type)
	}
	return ""
}
