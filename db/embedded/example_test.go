package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"

	"millrace/db/embedded"
)

func ExampleStart() {
	name, err := nameOfADatabase(context.Background())
	fmt.Println(name, err)
	// Output: shop <nil>
}

func nameOfADatabase(ctx context.Context) (name string, err error) {
	dir, err := os.MkdirTemp("", "shop-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, embedded.Remove(ctx, dir), os.RemoveAll(dir)) }()

	server, err := embedded.Start(ctx, embedded.Config{Dir: dir})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.Stop(ctx)) }()
	if err := server.EnsureDatabase(ctx, "shop"); err != nil {
		return "", err
	}
	conn, err := pgx.Connect(ctx, server.URL("shop"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SELECT current_database()").Scan(&name)
	return name, err
}
