package main

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/keelscale/keelscale/hscontrol"
)

func (c *cli) dbCommand() *cobra.Command {
	db := group(&cobra.Command{Use: "db", Short: "move the database"})
	db.AddCommand(c.dbCopyCommand())
	return db
}

func (c *cli) dbCopyCommand() *cobra.Command {
	var job hscontrol.DatabaseCopy
	cmd := &cobra.Command{
		Use:   "copy",
		Short: "copy a whole installation into another, empty database",
		Long: `Copies everything from one database into another that is empty: SQLite to PostgreSQL, back, or from one PostgreSQL to
another. Each row is read again and compared before anything is kept. Clients notice nothing: they, their keys and the
Noise key of the server stay what they are. No server may use either database meanwhile: stop it first.
The files that root makes this way belong to the owner of the directory where they lie.

A database is named sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME (or postgres:KEYWORDS, as libpq has them). One that
is not named is that of the configuration.`,
		Example: `  headscale db copy --from sqlite:/var/lib/headscale/db.sqlite --to postgres://headscale:secret@db.example.com/headscale
  headscale db copy --from sqlite:/var/lib/headscale/db.sqlite     # into that of the configuration`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load()
			if err != nil {
				return err
			}
			begun := time.Now()
			if c.output == "" {
				job.Progress = progress(c.err)
			}
			job.Log = newLog(c.err, slog.LevelWarn, cfg.Log.Format)
			rows, err := hscontrol.CopyDatabase(cmd.Context(), cfg, job)
			if err != nil {
				return err
			}
			return c.showAny(fmt.Sprintf("Copied and compared %d rows in %v. Set the configuration to the new database, then start the server", rows, time.Since(begun).Round(time.Millisecond)),
				map[string]any{"rows": rows})
		},
	}
	cmd.Flags().StringVar(&job.From, "from", "", "`database` to copy from (default: that of the configuration)")
	cmd.Flags().StringVar(&job.To, "to", "", "empty `database` to copy to (default: that of the configuration)")
	return cmd
}

// progress tells of each table that has rows when it is done, and each second while it is not.
func progress(out io.Writer) func(table string, done, all int) {
	said := time.Now()
	return func(table string, done, all int) {
		if all == 0 || done < all && time.Since(said) < time.Second {
			return
		}
		said = time.Now()
		fmt.Fprintf(out, "%s: %d of %d rows\n", table, done, all)
	}
}
