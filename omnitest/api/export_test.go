package api

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
)

// Trust gives c a copy of the shared transport that accepts the certificate of a test server.
func Trust(c *Client, cert *x509.Certificate) {
	t := transport.Transport.(*http.Transport).Clone()
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	t.TLSClientConfig = &tls.Config{RootCAs: pool}
	c.HTTP = &http.Client{Transport: t}
}
