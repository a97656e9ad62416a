package embedded_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"

	"millrace/db/embedded"
)

func ExampleStart() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "shop-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	defer embedded.Remove(ctx, dir)

	server, err := embedded.Start(ctx, embedded.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Stop(ctx)
	if err := server.EnsureDatabase(ctx, "shop"); err != nil {
		log.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, server.URL("shop"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	var name string
	if err := conn.QueryRow(ctx, "SELECT current_database()").Scan(&name); err != nil {
		log.Fatal(err)
	}
	fmt.Println(name)
	// Output: shop
}
