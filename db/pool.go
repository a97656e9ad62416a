package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxuuid "github.com/vgarvardt/pgx-google-uuid/v5"
)

// Limits that every connection of a pool runs under: no statement and no idle transaction holds locks for longer.
const (
	statementTimeout = 15 * time.Second
	idleInTxTimeout  = 30 * time.Second
)

// NewPool opens a pool of at most maxConns connections to databaseURL, with the settings that Millrace counts on. The pool of a
// Store stays small: its commands share few, large transactions.
func NewPool(ctx context.Context, databaseURL string, maxConns int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("parse the database URL: %w", err)
	}
	config.MaxConns = maxConns
	params := config.ConnConfig.RuntimeParams
	for name, value := range map[string]string{
		"application_name":                    "millrace",
		"statement_timeout":                   fmt.Sprint(statementTimeout.Milliseconds()),
		"idle_in_transaction_session_timeout": fmt.Sprint(idleInTxTimeout.Milliseconds()),
		"timezone":                            "UTC",
		// Every statement is meant to find its rows by an index. Left to itself the planner reads whole tables while they are small or
		// their statistics old, and keeps doing so, in plans that it caches, while they grow by thousands of rows a second.
		"enable_seqscan": "off",
		// A plan is kept and serves every call: one made for an array of a few rows always looks cheaper than the kept one, so that Postgres
		// would plan most statements anew at each call, which takes it longer than to run them.
		"plan_cache_mode": "force_generic_plan",
		// Short statements gain nothing from compilation or from further processes.
		"jit":                             "off",
		"max_parallel_workers_per_gather": "0",
	} {
		if _, set := params[name]; !set {
			params[name] = value
		}
	}
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	config.AfterConnect = func(_ context.Context, c *pgx.Conn) error {
		pgxuuid.Register(c.TypeMap())
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	return pool, nil
}
