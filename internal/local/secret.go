package local

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// keptSecret returns the password in a folder. It generates one at the first start.
func keptSecret(dir string) (string, error) {
	file := filepath.Join(dir, "password")
	content, err := os.ReadFile(file)
	if err == nil && len(content) > 0 {
		return strings.TrimSpace(string(content)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	secret := rand.Text()
	return secret, os.WriteFile(file, []byte(secret+"\n"), 0o600)
}

// keptPort returns a free port, the one of the last start in the folder if it is free, so
// that URLs stay valid over a restart.
func keptPort(dir string) (int, error) {
	port, err := FreePort(lastPort(dir))
	if err != nil {
		return 0, err
	}
	return port, os.WriteFile(portFile(dir), []byte(strconv.Itoa(port)+"\n"), 0o600)
}

// lastPort returns the port of the last start in a folder, or 0.
func lastPort(dir string) int {
	content, err := os.ReadFile(portFile(dir))
	if err != nil {
		return 0
	}
	port, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	return port
}

func portFile(dir string) string { return filepath.Join(dir, "port") }
