package ar

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// blockHash names the content of a full block and of all before it: a hash chain over token ids, as vLLM's.
type blockHash [16]byte

// pool is the paged KV cache: memory, reference counts, and the prefix cache over full blocks. A block that nobody
// references stays findable until it is taken from the free list, which is in LRU order.
//
// The scheduler owns everything but the memory of blocks that a pull is writing. mu orders writes to memory against
// the side channel's reads, which may name any block: a replayed ticket reads blocks that were given away long ago.
type pool struct {
	blockSize  int
	blockBytes int
	mem        []byte // blocks x [slice][K rows, V rows]
	mu         sync.RWMutex

	refs       []int32
	hash       []blockHash
	hashed     []bool
	cache      map[blockHash]int32
	next, prev []int32 // free list, doubly linked through block ids; block 0 (vLLM's null block) is the anchor
	free       int
}

func newPool(blocks, blockSize int) *pool {
	p := &pool{
		blockSize: blockSize, blockBytes: blockSize * BytesPerToken,
		mem:  make([]byte, blocks*blockSize*BytesPerToken),
		refs: make([]int32, blocks), hash: make([]blockHash, blocks), hashed: make([]bool, blocks),
		cache: map[blockHash]int32{}, next: make([]int32, blocks), prev: make([]int32, blocks),
	}
	for b := int32(1); b < int32(blocks); b++ {
		p.insertFree(b, p.prev[0])
	}
	return p
}

// size is the number of blocks that can be used.
func (p *pool) size() int { return len(p.refs) - 1 }

func (p *pool) usage() float64 { return 1 - float64(p.free)/float64(p.size()) }

// rows is the K (2*slice) or V (2*slice+1) matrix of a block: blockSize rows of rowBytes.
func (p *pool) rows(block int32, matrix int) []byte {
	n := p.blockSize * rowBytes
	at := int(block)*p.blockBytes + matrix*n
	return p.mem[at : at+n : at+n]
}

func (p *pool) block(b int32) []byte { return p.mem[int(b)*p.blockBytes:][:p.blockBytes] }

// write stores the KV of one token. The caller holds mu.
func (p *pool) write(m *model, table []int32, pos int, token int32) {
	block, row := table[pos/p.blockSize], pos%p.blockSize*rowBytes
	key, value := m.keys[pos%p.blockSize*tokenBytes:], m.values[int(token)*tokenBytes:]
	for s := range kvSlices {
		copy(p.rows(block, 2*s)[row:], key[s*rowBytes:][:rowBytes])
		copy(p.rows(block, 2*s+1)[row:], value[s*rowBytes:][:rowBytes])
	}
}

func (p *pool) insertFree(b, after int32) {
	n := p.next[after]
	p.next[after], p.prev[b], p.next[b], p.prev[n] = b, after, n, b
	p.free++
}

func (p *pool) removeFree(b int32) {
	p.next[p.prev[b]], p.prev[p.next[b]] = p.next[b], p.prev[b]
	p.free--
}

// take gives n fresh blocks appended to table, evicting the least recently used cached blocks; false: not enough.
func (p *pool) take(table []int32, n int) ([]int32, bool) {
	if n > p.free {
		return table, false
	}
	for range n {
		b := p.next[0]
		p.removeFree(b)
		if p.hashed[b] {
			p.hashed[b] = false
			delete(p.cache, p.hash[b])
		}
		p.refs[b] = 1
		table = append(table, b)
	}
	return table, true
}

// match finds the longest cached run of hashes and references its blocks.
func (p *pool) match(hashes []blockHash) []int32 {
	var table []int32
	for _, h := range hashes {
		b, ok := p.cache[h]
		if !ok {
			break
		}
		if p.refs[b] == 0 {
			p.removeFree(b)
		}
		p.refs[b]++
		table = append(table, b)
	}
	return table
}

// release drops one reference to each block. Tails go back first, so that a prefix outlives its continuations, and
// blocks without a hash go to the head of the list: nobody can find them again (vLLM does both).
func (p *pool) release(table []int32) {
	for i := len(table) - 1; i >= 0; i-- {
		b := table[i]
		if p.refs[b]--; p.refs[b] > 0 {
			continue
		}
		if p.hashed[b] {
			p.insertFree(b, p.prev[0])
		} else {
			p.insertFree(b, 0)
		}
	}
}

// recycle is release without mercy: the blocks are forgotten by the prefix cache and are the next to be given away, in order.
func (p *pool) recycle(table []int32) {
	for i := len(table) - 1; i >= 0; i-- {
		b := table[i]
		if p.refs[b]--; p.refs[b] > 0 {
			continue
		}
		if p.hashed[b] {
			p.hashed[b] = false
			delete(p.cache, p.hash[b])
		}
		p.insertFree(b, 0)
	}
}

// register makes a full, computed block findable. The first block of a given content stays the one that is found.
func (p *pool) register(b int32, h blockHash) {
	if p.hashed[b] {
		return
	}
	if _, dup := p.cache[h]; dup {
		return
	}
	p.hash[b], p.hashed[b], p.cache[h] = h, true, b
}

// extendHashes appends the hashes of all full blocks of tokens that are not hashed yet.
func extendHashes(hashes []blockHash, tokens []int32, blockSize int) []blockHash {
	var buf []byte
	for (len(hashes)+1)*blockSize <= len(tokens) {
		buf = buf[:0]
		if n := len(hashes); n > 0 {
			buf = append(buf, hashes[n-1][:]...)
		}
		for _, t := range tokens[len(hashes)*blockSize:][:blockSize] {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(t))
		}
		sum := sha256.Sum256(buf)
		hashes = append(hashes, blockHash(sum[:16]))
	}
	return hashes
}
