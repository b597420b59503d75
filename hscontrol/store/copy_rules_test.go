package store

import (
	"regexp"
	"slices"
	"testing"
)

// TestCopiedTables: a new table is copied, or it is said why not.
func TestCopiedTables(t *testing.T) {
	left := []string{"schema_version", "replicas", "replica_relays", "secrets", "probe_answers", "database_timelines"}
	for _, statements := range migrations {
		for _, statement := range statements {
			m := regexp.MustCompile(`^CREATE TABLE (\w+)`).FindStringSubmatch(statement)
			if m != nil && !slices.Contains(copied, m[1]) && !slices.Contains(left, m[1]) {
				t.Errorf("table %s is not copied", m[1])
			}
		}
	}
}
