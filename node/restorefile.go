package node

import (
	"context"

	"github.com/valise-mail/valise/node/api"
)

// RestoreFile implements api.Admin.
func (a admin) RestoreFile(ctx context.Context, r api.RestoreFileRequest, progress func(api.BackupProgress)) (api.RestoreFileDone, error) {
	return api.RestoreFileDone{}, nil
}
