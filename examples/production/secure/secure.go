// Package secure connects with TLS, and with a user whose password is in a file.
package secure

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/kitsd/etcdv3"
)

// Connect reads what it needs from the environment: ETCD_ENDPOINTS, as
// "https://10.0.0.1:2379,https://10.0.0.2:2379", ETCD_CA, ETCD_USER and
// ETCD_PASSWORD_FILE.
func Connect(ctx context.Context) (etcdv3.Client, error) {
	password, err := os.ReadFile(os.Getenv("ETCD_PASSWORD_FILE"))
	if err != nil {
		return nil, fmt.Errorf("read the password for etcd: %w", err)
	}
	return etcdv3.NewClient(ctx, strings.Split(os.Getenv("ETCD_ENDPOINTS"), ","), etcdv3.ClientOptions{
		CACert:   os.Getenv("ETCD_CA"),
		Username: os.Getenv("ETCD_USER"),
		Password: strings.TrimSpace(string(password)),
	})
}
