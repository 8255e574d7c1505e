// Package kitslog gives code that logs with go-kit a logger of log/slog.
package kitslog

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	kitlog "github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// New returns a go-kit logger that hands its lines to a slog logger. The value of
// msg becomes the message; if there is no msg, the value of action does. If a
// line has no level, it is a warning with an err, and an information without.
func New(logger *slog.Logger) kitlog.Logger { return adapter{logger.Handler()} }

type adapter struct{ handler slog.Handler }

var levels = map[any]slog.Level{
	level.DebugValue(): slog.LevelDebug,
	level.InfoValue():  slog.LevelInfo,
	level.WarnValue():  slog.LevelWarn,
	level.ErrorValue(): slog.LevelError,
}

// Log implements go-kit's log.Logger.
func (a adapter) Log(keyvals ...any) error {
	var message, action, severity any
	var failed bool
	var attributes []slog.Attr
	for i := 0; i+1 < len(keyvals); i += 2 {
		switch key, value := fmt.Sprint(keyvals[i]), keyvals[i+1]; key {
		case "msg":
			message = value
		case "level":
			severity = value
		default:
			if key == "action" {
				action = value
			}
			failed = failed || key == "err" && value != nil
			attributes = append(attributes, slog.Any(key, value))
		}
	}
	if message == nil {
		message = action
	}
	if message == nil {
		message = "sd"
	}
	grade, ok := levels[severity]
	if !ok && failed {
		grade = slog.LevelWarn
	}
	ctx := context.Background()
	if !a.handler.Enabled(ctx, grade) {
		return nil
	}
	record := slog.NewRecord(time.Now(), grade, fmt.Sprint(message), 0)
	record.AddAttrs(attributes...)
	return a.handler.Handle(ctx, record)
}
