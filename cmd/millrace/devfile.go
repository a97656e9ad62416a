package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// devFile is dev.json: where a millrace dev is, and the credentials to try it with.
type devFile struct {
	URL         string  `json:"url"`
	DatabaseURL string  `json:"database_url"`
	Customer    devUser `json:"customer"`
	Operator    devUser `json:"operator"`
}

// devUser is a user to try with.
type devUser struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	APIKey   string `json:"api_key"`
}

func devPath(dataDir string) string { return filepath.Join(dataDir, "dev.json") }

func readDevFile(dataDir string) (*devFile, error) {
	body, err := os.ReadFile(devPath(dataDir))
	if err != nil {
		return nil, err
	}
	var d devFile
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, fmt.Errorf("read %s: %w", devPath(dataDir), err)
	}
	return &d, nil
}

// write replaces dev.json, readable by its owner alone.
func (d *devFile) write(dataDir string) error {
	body, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dataDir, "dev.json.*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(body, '\n'))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), devPath(dataDir))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
