package local

import (
	"fmt"
	"log"
	"os"
)

// A natsLog is the log file of a NATS. The server's own logger ends the process if the
// server cannot start; this one reports the error.
type natsLog struct {
	*log.Logger
	file  *os.File
	fatal chan error // why the server can't start; the first reason
}

func openNATSLog(name string) (*natsLog, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &natsLog{
		Logger: log.New(file, "", log.LstdFlags|log.Lmicroseconds|log.LUTC),
		file:   file, fatal: make(chan error, 1),
	}, nil
}

func (l *natsLog) Noticef(format string, v ...any) { l.Printf("[INF] "+format, v...) }
func (l *natsLog) Warnf(format string, v ...any)   { l.Printf("[WRN] "+format, v...) }
func (l *natsLog) Errorf(format string, v ...any)  { l.Printf("[ERR] "+format, v...) }
func (l *natsLog) Debugf(format string, v ...any)  {}
func (l *natsLog) Tracef(format string, v ...any)  {}

func (l *natsLog) Fatalf(format string, v ...any) {
	l.Printf("[FTL] "+format, v...)
	select {
	case l.fatal <- fmt.Errorf(format, v...):
	default:
	}
}
