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
	"slices"

	"github.com/klauspost/compress/zstd"
)

// A Batch is one JSON array of items, as a file has it.
type Batch struct {
	// File is the name as given, and Number the array's place in it, from 1.
	File   string
	Number int
	Items  json.RawMessage
	order  int // among the batches of all files, from 0
}

// Batches reads the JSON arrays of a file, one after the other, and calls each
// with them until it returns false. The file may be compressed with gzip or
// zstd; "-" is standard input. progress, if not nil, gets the bytes read of the
// file as it is on disk. A file without a batch is an error: an export that
// failed looks like that.
func Batches(file string, progress func(bytes int64), each func(Batch) bool) error {
	name, source := file, io.Reader(os.Stdin)
	if file == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		source = f
	}
	plain, err := decompress(&countingReader{source, progress})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	lines := &lineReader{source: plain}
	decoder := json.NewDecoder(lines)
	for number := 1; ; number++ {
		batch := Batch{File: file, Number: number}
		err := decoder.Decode(&batch.Items)
		switch {
		case errors.Is(err, io.EOF) && number == 1:
			return fmt.Errorf("%s: there are no batches in it", name)
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("%s: it ends in the middle of batch %d", name, number)
		case err != nil:
			return fmt.Errorf("%s: %sbatch %d: %w", name, lines.placeOf(err), number, err)
		case batch.Items[0] != '[':
			return fmt.Errorf("%s: batch %d is not a JSON array of items", name, number)
		}
		lines.forget(decoder.InputOffset())
		if !each(batch) {
			return nil
		}
	}
}

// A lineReader finds the line of a byte that was read.
type lineReader struct {
	source io.Reader
	read   int64
	before int     // how many lines end before those in ends
	ends   []int64 // the bytes after which lines end, as far as they were not forgotten
}

func (r *lineReader) Read(b []byte) (int, error) {
	n, err := r.source.Read(b)
	for at := 0; ; {
		found := bytes.IndexByte(b[at:n], '\n')
		if found < 0 {
			break
		}
		at += found + 1
		r.ends = append(r.ends, r.read+int64(at))
	}
	r.read += int64(n)
	return n, err
}

// forget drops the lines that end at an offset or before it.
func (r *lineReader) forget(offset int64) {
	n, _ := slices.BinarySearch(r.ends, offset+1)
	r.before += n
	r.ends = append(r.ends[:0], r.ends[n:]...)
}

// placeOf says where the JSON is broken, counting lines and bytes from 1.
func (r *lineReader) placeOf(err error) string {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return ""
	}
	n, _ := slices.BinarySearch(r.ends, syntax.Offset)
	return fmt.Sprintf("line %d, byte %d, ", r.before+n+1, syntax.Offset)
}

// decompress recognises by its first bytes how a file is compressed.
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
