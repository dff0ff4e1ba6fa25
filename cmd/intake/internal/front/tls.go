package front

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// reloadEvery is how often the files of a certificate are checked for changes.
const reloadEvery = 10 * time.Second

// A Certificate is a certificate in files, which may be replaced while it is in use. It is
// safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	logger            *zap.Logger

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu
	changed time.Time        // guarded by mu; when the files of current were written
	looked  time.Time        // guarded by mu
}

// LoadCertificate reads a certificate with its chain, and its key, both in PEM.
func LoadCertificate(certFile, keyFile string, logger *zap.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Certificate) load() error {
	changed, err := c.lastChange()
	if err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read the certificate %s with the key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current, c.changed, c.looked = &certificate, changed, time.Now()
	return nil
}

// lastChange returns when the later one of the files was written.
func (c *Certificate) lastChange() (last time.Time, err error) {
	for _, file := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			return last, err
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, nil
}

// get returns the certificate as its files are now, or as they were when they could last
// be read.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < reloadEvery {
		return c.current, nil
	}
	c.looked = time.Now()
	changed, err := c.lastChange()
	if err == nil && changed.Equal(c.changed) {
		return c.current, nil
	}
	if err == nil {
		err = c.load()
	}
	if err != nil {
		c.logger.Error("cannot read the changed certificate, using the old one", zap.Error(err))
	} else {
		c.logger.Info("the certificate has changed, using the new one")
	}
	return c.current, nil
}

// Config returns the configuration of a server with the certificate.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"h2", "http/1.1"}}
}
