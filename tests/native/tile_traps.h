// Executes tile instructions of AMX that the processor does not know, or that Linux does not let this process have: each
// raises a signal, and is read from memory and done in plain C++. So the very instructions of native/gemm/micro/tiles_amx.h are
// tested where there are none. Included before everything else.
// Source: Intel SDM, volume 2, 2.3 (VEX prefix), 2.1.5 (ModRM and SIB) and the pages of the instructions.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>

namespace tile_traps {

#include "plain_tiles.h"

enum Prefix { kNone, k66, kF3, kF2 };  // as VEX numbers them

// The parts of an instruction with a VEX prefix of three bytes.
struct Instruction {
  int map, prefix, opcode, mod, reg, rm, vvvv;
  bool is_wide, is_long;
  uint8_t* place;  // base and displacement of its memory
  int64_t index;   // scaled
  int length;
};

inline Instruction read_instruction(greg_t* registers) {
  static const int kNumbers[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  const auto* code = (const uint8_t*)registers[REG_RIP];
  if (code[0] != 0xC4) return {-1};
  const int high_reg = code[1] & 0x80 ? 0 : 8, high_index = code[1] & 0x40 ? 0 : 8, high_base = code[1] & 0x20 ? 0 : 8;
  Instruction found{};
  found.map = code[1] & 31;
  found.is_wide = code[2] & 0x80;
  found.vvvv = ~code[2] >> 3 & 15;
  found.is_long = code[2] & 4;
  found.prefix = code[2] & 3;
  found.opcode = code[3];
  found.mod = code[4] >> 6;
  found.reg = (code[4] >> 3 & 7) | high_reg;
  found.rm = (code[4] & 7) | high_base;
  found.length = 5;
  if (found.mod == 3) return found;
  int base = found.rm;
  bool has_base = found.mod != 0 || (base & 7) != 5;
  const bool is_relative = !has_base;  // to the next instruction
  if ((base & 7) == 4) {
    const uint8_t sib = code[found.length++];
    base = (sib & 7) | high_base;
    has_base = found.mod != 0 || (base & 7) != 5;
    const int index = (sib >> 3 & 7) | high_index;
    if (index != 4) found.index = int64_t(registers[kNumbers[index]]) << (sib >> 6);
  }
  int32_t displacement = 0;
  if (found.mod == 1) {
    displacement = int8_t(code[found.length++]);
  } else if (found.mod == 2 || !has_base) {
    std::memcpy(&displacement, code + found.length, 4);
    found.length += 4;
  }
  const int64_t from = has_base ? registers[kNumbers[base]] : is_relative ? int64_t(code) + found.length : 0;
  found.place = (uint8_t*)(from + displacement);
  return found;
}

// Returns whether it is one of them.
inline bool execute(const Instruction& each) {
  if (each.map != 2 || each.is_wide || each.is_long) return false;
  const bool has_memory = each.mod != 3;
  if (each.opcode == 0x49 && each.prefix == kNone && has_memory && each.reg == 0) {
    TileConfig config;
    std::memcpy(&config, each.place + each.index, sizeof(config));
    PlainTiles::configure(config);
  } else if (each.opcode == 0x49 && each.prefix == kNone && !has_memory && each.reg == 0 && each.rm == 0) {
    PlainTiles::release();
  } else if (each.opcode == 0x49 && each.prefix == kF2 && !has_memory && each.rm == 0) {
    PlainTiles::zero(each.reg);
  } else if (each.opcode == 0x4B && each.prefix == kF2 && has_memory) {
    PlainTiles::load(each.reg, each.place, each.index);
  } else if (each.opcode == 0x4B && each.prefix == kF3 && has_memory) {
    PlainTiles::store(each.reg, each.place, each.index);
  } else if (each.opcode == 0x5E && each.prefix == kF2 && !has_memory) {
    PlainTiles::dot(each.reg, each.rm, each.vvvv);
  } else {
    return false;
  }
  return true;
}

inline void on_unknown_instruction(int number, siginfo_t*, void* context) {
  greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  const Instruction found = read_instruction(registers);
  if (execute(found)) {
    registers[REG_RIP] += found.length;
  } else {
    signal(number, SIG_DFL);  // it is raised again, and ends the program
  }
}

__attribute__((constructor)) inline void catch_them() {
  struct sigaction action = {};
  action.sa_sigaction = on_unknown_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, nullptr);
}

}  // namespace tile_traps
