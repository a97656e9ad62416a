package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
	"millrace/db"
	"millrace/db/migrations"
	"millrace/db/notify"
	"millrace/jobs"
)

// storeFlags say how the store of a process works.
type storeFlags struct {
	DatabaseConns     int32         `default:"8" env:"MILLRACE_DATABASE_CONNS" help:"Connections for commands and questions; few, since they share transactions."`
	MaxGroup          int           `default:"256" env:"MILLRACE_MAX_GROUP" help:"Callers that share a transaction, at most."`
	MaxQueue          int           `default:"4096" env:"MILLRACE_MAX_QUEUE" help:"Callers that wait, at most, for each kind of command; past it they are told to come back."`
	MaxAttempts       int           `default:"20" env:"MILLRACE_MAX_ATTEMPTS" help:"Tries of a job before its order is put on hold."`
	CaptureOnShipment bool          `env:"MILLRACE_CAPTURE_ON_SHIPMENT" help:"Take the money when the goods leave, not with the authorization."`
	ActionTimeout     time.Duration `default:"30m" env:"MILLRACE_ACTION_TIMEOUT" help:"How long a buyer has to act before the order expires."`
}

// node is what every server process has: a store on a pool, a doorbell, and metrics.
type node struct {
	databaseURL string
	log         *slog.Logger
	pool        *pgxpool.Pool
	store       *db.Store
	bell        *notify.Doorbell
	local       *jobs.Local // brings this process' workers its own jobs
	metrics     *metrics
}

// openNode connects to a migrated database. local, which may be nil, hears of changes made by this process without a way through the
// database. Close the node when its users are done.
func openNode(ctx context.Context, databaseURL string, f storeFlags, log *slog.Logger, m *metrics, local func(...millrace.Ring)) (*node, error) {
	pool, err := db.NewPool(ctx, databaseURL, f.DatabaseConns)
	if err != nil {
		return nil, err
	}
	n := &node{databaseURL: databaseURL, log: log, pool: pool, local: &jobs.Local{}, metrics: m}
	if err := migrations.Check(ctx, pool); err != nil {
		n.pool.Close()
		return nil, fmt.Errorf("check the database: %w", err)
	}
	n.bell, err = notify.NewDoorbell(notify.DoorbellConfig{DatabaseURL: databaseURL, Local: local, LocalJobs: n.local.Announce, Logger: log})
	if err != nil {
		n.pool.Close()
		return nil, err
	}
	n.local.Own = n.bell.Announced
	n.store, err = db.NewStore(db.Config{Pool: pool, Logger: log, Ring: n.bell.Ring, Announce: n.bell.Announce, Workers: n.local, MaxGroup: f.MaxGroup, MaxQueue: f.MaxQueue,
		MaxAttempts: f.MaxAttempts, Observe: m.observeFlush,
		Policy: millrace.PaymentPolicy{CaptureOnShipment: f.CaptureOnShipment, ActionTimeout: f.ActionTimeout}})
	if err != nil {
		err = errors.Join(err, n.bell.Close(ctx))
		n.pool.Close()
		return nil, err
	}
	m.watchStore(n.store)
	return n, nil
}

// close waits for commands under way, rings for what they changed and disconnects.
func (n *node) close(ctx context.Context) error {
	n.store.Close()
	err := n.bell.Close(ctx)
	n.pool.Close()
	return err
}

// checks are what the node needs to do its work.
func (n *node) checks() checks {
	return checks{"database": n.pool.Ping, "migrations": func(ctx context.Context) error { return migrations.Check(ctx, n.pool) }}
}
