package migrations

import "context"

// Down takes every migration back.
func Down(ctx context.Context, databaseURL string) error {
	p, db, err := provider(databaseURL)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = p.DownTo(ctx, 0)
	return err
}
