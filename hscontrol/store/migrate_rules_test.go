package store

import (
	"regexp"
	"testing"
)

// additive are the statements that leave what an older program does as it was.
var additive = regexp.MustCompile(`(?s)^(CREATE TABLE \w+ |CREATE INDEX |ALTER TABLE \w+ ADD COLUMN \w+ [^,]*$)`)

// TestMigrationsOnlyAdd: a program of the release before goes on working beside this one, during an upgrade.
func TestMigrationsOnlyAdd(t *testing.T) {
	if oldestProgram > len(migrations) {
		t.Fatalf("got %d as the oldest program, want at most %d, what this one knows", oldestProgram, len(migrations))
	}
	newTables := map[string]bool{}
	for i, statements := range migrations[oldestProgram:] {
		for _, statement := range statements {
			if m := regexp.MustCompile(`^CREATE TABLE (\w+)`).FindStringSubmatch(statement); m != nil {
				newTables[m[1]] = true
			}
			unique := regexp.MustCompile(`^CREATE UNIQUE INDEX \w+ ON (\w+)`).FindStringSubmatch(statement)
			if !additive.MatchString(statement) && (unique == nil || !newTables[unique[1]]) {
				t.Errorf("migration %d does more than add, so raise oldestProgram: %s", oldestProgram+i+1, statement)
			}
			notNull := regexp.MustCompile(`(?i)ADD COLUMN .*NOT NULL`).MatchString(statement)
			if notNull && !regexp.MustCompile(`(?i)DEFAULT`).MatchString(statement) {
				t.Errorf("migration %d adds a column that older programs do not fill: %s", oldestProgram+i+1, statement)
			}
		}
	}
}
