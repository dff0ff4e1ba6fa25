package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"intake/cmd/intake/internal/admin"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/closing"
	"intake/cmd/intake/internal/front"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/origin"
	"intake/sink"
	"intake/worker/queue"
)

// issuerFlags say whose tokens let partners in.
type issuerFlags struct {
	OAuthIssuer       string `name:"oauth-issuer" placeholder:"URL" help:"Take access tokens of this issuer too: its URL exactly as in their iss, https, or http on this machine."`
	OAuthAudience     string `name:"oauth-audience" placeholder:"AUDIENCE" help:"What the aud of its tokens must contain; the public URL if empty."`
	OAuthPartnerClaim string `name:"oauth-partner-claim" default:"client_id" help:"The claim of its tokens that has the partner's name, such as client_id, azp or sub."`
	NoBuiltinIssuer   bool   `help:"Issue no tokens, and take only those of --oauth-issuer."`
}

func (f issuerFlags) external() auth.ExternalIssuer {
	return auth.ExternalIssuer{URL: f.OAuthIssuer, Audience: f.OAuthAudience, PartnerClaim: f.OAuthPartnerClaim}
}

type frontCommand struct {
	serverFlags
	issuerFlags
	Listen           string        `default:"127.0.0.1:8080" help:"Address that partners talk to."`
	AdminListen      string        `default:"127.0.0.1:9090" help:"Address of /livez, /readyz, /metrics and /debug/pprof/, not for partners."`
	PublicURL        string        `name:"public-url" help:"Address as partners see it, the issuer and audience of tokens; http:// and the address listened to if empty."`
	TLSCert          string        `name:"tls-cert" help:"File with the certificate and its chain, in PEM, for TLS. It is read again when it changes."`
	TLSKey           string        `name:"tls-key" help:"File with the certificate's key, in PEM."`
	TrustedProxies   []string      `help:"Networks of proxies in front, as in 10.0.0.0/8, whose X-Forwarded-For tells where a request comes from."`
	MaxConnections   int           `name:"max-connections-per-address" default:"1000" help:"Connections at once from an IPv4 address or an IPv6 network of 64 bits, other than those of --trusted-proxies; further ones are closed at once. 0: as many as there may be altogether."`
	MaxInflightBytes int64         `default:"268435456" help:"Bound on the memory of all batches together; beyond it they are refused with 503. Questions, such as status checks, have an eighth of it more, and at least 112 MiB."`
	MaxBacklog       time.Duration `default:"10s" help:"How long it may take to save what is queued before more is refused with 503. While nothing is saved at all, the room of the queue is the bound."`
	ShutdownTimeout  time.Duration `default:"10s" help:"How long shutting down may take. Who still waits near its end is answered 202."`
	DrainDelay       time.Duration `default:"1s" help:"How long requests are still taken at shutdown, while load balancers learn of it; part of --shutdown-timeout, at most half of it."`
}

func (c frontCommand) Run(ctx context.Context, logger *zap.Logger) error {
	limitHeap(c.MaxInflightBytes + front.QuestionBytes(c.MaxInflightBytes))
	process, err := newFrontProcess(ctx, c, logger.Named("front"))
	if err != nil {
		return err
	}
	return process.Run(ctx)
}

// A frontProcess is a front with all that it needs.
type frontProcess struct {
	config frontCommand
	logger *zap.Logger
	parts
	questions *sink.Store // for what partners ask
	queue     *queue.Queue
	limiter   *limit.Limiter
	auth      *auth.Authenticator
	front     *front.Front
	listener  net.Listener
	admin     net.Listener
	health    *admin.Handler
}

func newFrontProcess(ctx context.Context, c frontCommand, logger *zap.Logger) (_ *frontProcess, err error) {
	p := &frontProcess{config: c, logger: logger}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	const conns = 4 // to read the partners, and the status of late batches
	if p.parts, err = connect(ctx, c.serverFlags, "intake front", conns, logger); err != nil {
		return nil, err
	}
	// Batches don't wait behind questions, however long those take.
	if p.questions, err = sink.Open(ctx, c.storeOptions(conns)); err != nil {
		return nil, err
	}
	if p.queue, err = queue.New(p.nats, queue.Options{
		Ledger: p.store, Stream: c.streamOptions(), Check: c.check(), MaxBacklog: c.MaxBacklog, Logger: logger,
		Registerer: p.metrics,
	}); err != nil {
		return nil, err
	}
	if p.listener, err = closing.Listen(ctx, c.Listen); err != nil {
		return nil, addressError("--listen", err)
	}
	if p.admin, err = net.Listen("tcp", c.AdminListen); err != nil {
		return nil, addressError("--admin-listen", err)
	}
	p.health = admin.New(p.metrics,
		admin.Check{Name: "queue", Check: p.queue.Ready},
		admin.Check{Name: "partners", Check: func(ctx context.Context) error { return p.auth.Ready(ctx) }})
	publicURL := strings.TrimRight(c.PublicURL, "/")
	if publicURL == "" {
		publicURL = p.url()
	}
	certificate, proxies, err := c.security(logger)
	if err != nil {
		return nil, err
	}
	p.limiter = limit.New(limit.Options{Redis: p.redis, Logger: logger, Registerer: p.metrics})
	if p.auth, err = auth.New(auth.Options{
		Registry: p.store, PublicURL: publicURL, Issuer: c.external(), NoBuiltinIssuer: c.NoBuiltinIssuer,
		Proxies: proxies,
		Logger:  logger, Registerer: p.metrics,
	}); err != nil {
		return nil, err
	}
	p.front, err = front.New(front.Options{
		Queue: p.queue, Store: p.store, Questions: p.questions, SeenSet: p.seen, Auth: p.auth,
		MaxInflightBytes: c.MaxInflightBytes, Limiter: p.limiter, Certificate: certificate, DrainDelay: c.DrainDelay,
		Proxies: proxies, MaxConnectionsPerAddress: c.MaxConnections, Ready: p.health.ServeReady,
		Live:   p.health.ServeLive,
		Logger: logger, Registerer: p.metrics,
	})
	return p, err
}

// security reads what keeps strangers away.
func (c *frontCommand) security(logger *zap.Logger) (certificate *front.Certificate, proxies origin.Proxies,
	err error) {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return nil, nil, errors.New("--tls-cert and --tls-key go together")
	}
	if c.TLSCert != "" {
		if certificate, err = front.LoadCertificate(c.TLSCert, c.TLSKey, logger); err != nil {
			return nil, nil, fmt.Errorf("--tls-cert: %w", err)
		}
	}
	for _, text := range c.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--trusted-proxies: %q is no network like 10.0.0.0/8", text)
		}
		proxies = append(proxies, network)
	}
	return certificate, proxies, nil
}

// url is where the front listens.
func (p *frontProcess) url() string {
	scheme := "http://"
	if p.config.TLSCert != "" {
		scheme = "https://"
	}
	return scheme + p.listener.Addr().String()
}

// Run serves until ctx ends, and then finishes the requests that are in. It ends
// with safety.Breaches if a server may lose what it has stored.
func (p *frontProcess) Run(ctx context.Context) error {
	defer p.close()
	// What requests need goes on until the last of them is answered.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, background := errgroup.WithContext(background)
	group.Go(func() error { return p.health.Serve(background, p.admin) })
	group.Go(func() error { return p.check(background, p.config.AllowUnsafe, p.logger) })
	group.Go(func() error { return p.queue.Run(background) })
	group.Go(func() error { return p.seen.Run(background) })
	group.Go(func() error { return p.auth.Run(background) })
	group.Go(func() error { return p.limiter.Run(background) })
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	context.AfterFunc(serving, p.health.Drain)
	context.AfterFunc(background, stopServing) // if one of them fails
	p.logger.Info("front started", zap.String("listen", p.url()))
	timeout := p.config.ShutdownTimeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	err := p.front.Serve(serving, p.listener, timeout)
	stop()
	if backgroundErr := group.Wait(); backgroundErr != nil {
		err = backgroundErr
	}
	p.logger.Info("front stopped")
	return p.withAllBreaches(err, p.config.serverFlags)
}

func (p *frontProcess) close() {
	for _, listener := range []net.Listener{p.listener, p.admin} {
		if listener != nil {
			listener.Close()
		}
	}
	if p.questions != nil {
		p.questions.Close()
	}
	p.parts.close()
}

// waitReady waits until all are ready. It tells what isn't when ctx ends, or
// after a minute.
func waitReady(ctx context.Context, all ...*admin.Handler) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, health := range all {
		for {
			err := health.Ready(ctx)
			if err == nil {
				break
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("not ready in time: %w", err)
			}
		}
	}
	return nil
}
