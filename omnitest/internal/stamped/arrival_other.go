//go:build !linux

package stamped

import "net"

func tellArrivals(net.Listener) {}

// Read notes when it returned; that counts as the arrival.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.raw.Read(b)
	c.read = Now()
	c.at = c.read
	return n, err
}
