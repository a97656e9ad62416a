package http

import (
	"encoding/base64"

	"github.com/google/uuid"

	"millrace"
)

// A cursor says where a page ended. To clients it is opaque: base64url of the kind of list, the version of the format and the key of
// the last entry. A cursor of another list or of another version is refused. It opens nothing: what a page shows is the caller's own.
type cursorKind byte

const (
	orderCursor   cursorKind = 'o'
	productCursor cursorKind = 'p'
	eventCursor   cursorKind = 'e'
)

const cursorVersion = 1

var cursorEncoding = base64.RawURLEncoding.Strict()

func encodeCursor(kind cursorKind, key []byte) string {
	return cursorEncoding.EncodeToString(append([]byte{byte(kind), cursorVersion}, key...))
}

// decodeCursor is the key in a cursor, nil for "" (the first page).
func decodeCursor(kind cursorKind, cursor string) ([]byte, error) {
	if cursor == "" {
		return nil, nil
	}
	b, err := cursorEncoding.DecodeString(cursor)
	if err != nil || len(b) < 3 || b[0] != byte(kind) || b[1] != cursorVersion {
		return nil, errCursor()
	}
	return b[2:], nil
}

func decodeOrderCursor(cursor string) (uuid.UUID, error) {
	key, err := decodeCursor(orderCursor, cursor)
	if err != nil || key == nil {
		return uuid.Nil, err
	}
	id, err := uuid.FromBytes(key)
	if err != nil || id == uuid.Nil {
		return uuid.Nil, errCursor()
	}
	return id, nil
}

func errCursor() error {
	return millrace.InvalidField("query.cursor", "This cursor is none of this list's: give next_cursor of a page as it came, or none for the first page.")
}
