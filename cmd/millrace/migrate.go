package main

import (
	"context"
	"fmt"

	"millrace/db/migrations"
	"millrace/provider/simulated"
)

type migrateCmd struct {
	databaseFlag
	Simulated bool `default:"true" negatable:"" env:"MILLRACE_SIMULATED" help:"Prepare the simulated providers' tables too."`
}

func (c *migrateCmd) Run(ctx context.Context, io stdio) error {
	version, err := migrate(ctx, c.DatabaseURL, c.Simulated)
	if err != nil {
		return err
	}
	fmt.Fprintf(io.out, "The database is at version %d.\n", version)
	return nil
}

func migrate(ctx context.Context, databaseURL string, withSimulated bool) (int64, error) {
	version, err := migrations.Up(ctx, databaseURL)
	if err == nil && withSimulated {
		err = simulated.Migrate(ctx, databaseURL)
	}
	return version, err
}
