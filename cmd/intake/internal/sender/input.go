package sender

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// A Batch is one JSON array of items, as it stood in a file.
type Batch struct {
	// File is the name as given, and Number the array's place in it, from 1.
	File   string
	Number int
	Items  json.RawMessage
}

// Batches reads the JSON arrays of a file, one after the other, and calls each
// with them until it returns false. The file may be compressed with gzip or
// zstd; "-" is standard input. The position of progress counts bytes of the
// file as it lies on disk.
func Batches(file string, progress func(bytes int64), each func(Batch) bool) error {
	source := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		source = f
	}
	plain, err := decompress(&countingReader{source, progress})
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	decoder := json.NewDecoder(plain)
	for number := 1; ; number++ {
		batch := Batch{File: file, Number: number}
		switch err := decoder.Decode(&batch.Items); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: batch %d: %w", file, number, err)
		case batch.Items[0] != '[':
			return fmt.Errorf("%s: batch %d is not a JSON array of items", file, number)
		}
		if !each(batch) {
			return nil
		}
	}
}

// decompress tells by the first bytes how a file is compressed.
func decompress(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReaderSize(r, 1<<16)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buffered)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	}
	return buffered, nil
}

type countingReader struct {
	source io.Reader
	count  func(int64)
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.source.Read(b)
	if r.count != nil {
		r.count(int64(n))
	}
	return n, err
}
