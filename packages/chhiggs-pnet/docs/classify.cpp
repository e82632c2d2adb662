// Classify one event with a model that `chhiggs-pnet export` wrote, through ONNX Runtime's C++ interface.
//
//     g++ -std=c++17 -O2 classify.cpp -I"$ONNXRUNTIME/include" -L"$ONNXRUNTIME/lib" -lonnxruntime -o classify
//     ./classify model.onnx 130 90
//
// with ONNXRUNTIME an unpacked release of ONNX Runtime, or -I/usr/include/onnxruntime -lonnxruntime where the system
// has a package such as Debian's libonnxruntime-dev.
//
// Normalisation, nearest neighbours and temperature are inside the file. A node is one muon, electron, jet or,
// last, the missing momentum; the order of features is in the file's metadata under "features".

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

namespace {

constexpr int kNodes = 16;     // slots of an event, of which the first `used` are real
constexpr int kFeatures = 14;  // ext14; 9 for a model trained with cms9
constexpr std::array<const char*, 4> kClasses = {"signal", "nonprompt", "diboson", "ttX"};

enum Kind { kMuon, kElectron, kJet, kMissing };

struct Event {
  std::vector<float> nodes = std::vector<float>(kNodes * kFeatures, 0.0f);
  std::array<bool, kNodes> valid{};
  int used = 0;

  // pt, mass in GeV; phi in rad; btag in [0, 1].
  void add(Kind kind, float pt, float eta, float phi, float mass, float charge, float btag, bool tagged) {
    const float cosh_eta = std::cosh(eta);
    const float values[kFeatures] = {
        std::sqrt(pt * pt * cosh_eta * cosh_eta + mass * mass), pt * std::cos(phi), pt * std::sin(phi),
        pt * std::sinh(eta), charge, kind == kMuon ? 1.0f : 0.0f, kind == kElectron ? 1.0f : 0.0f,
        kind == kJet ? 1.0f : 0.0f, tagged ? 1.0f : 0.0f, pt, eta, phi, mass, btag};
    std::memcpy(nodes.data() + used * kFeatures, values, sizeof(values));
    valid[used++] = true;
  }
};

// Mass in GeV, or 0 for anything that is no mass.
float read_mass(const char* text) {
  char* end = nullptr;
  const float mass = std::strtof(text, &end);
  return *text != '\0' && *end == '\0' && mass > 0.0f ? mass : 0.0f;
}

void classify(const char* model, std::array<float, 2> masses) {
  Event event;
  event.add(kMuon, 62.0f, 0.4f, 0.3f, 0.1057f, 1.0f, 0.0f, false);
  event.add(kMuon, 35.0f, -0.2f, 2.6f, 0.1057f, -1.0f, 0.0f, false);
  event.add(kElectron, 28.0f, 1.1f, -1.9f, 0.0005f, 1.0f, 0.0f, false);
  event.add(kJet, 71.0f, 0.9f, -0.8f, 9.0f, 0.0f, 0.97f, true);
  event.add(kJet, 33.0f, -1.6f, 1.2f, 4.0f, 0.0f, 0.05f, false);
  event.add(kMissing, 48.0f, 0.0f, -2.7f, 0.0f, 0.0f, 0.0f, false);

  std::array<std::int64_t, 1> channel = {0}, era = {3};  // Run1E2Mu, 2018
  const std::array<std::int64_t, 3> node_shape = {1, kNodes, kFeatures};
  const std::array<std::int64_t, 2> mask_shape = {1, kNodes}, mass_shape = {1, 2};
  const std::array<std::int64_t, 1> one = {1};

  Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "classify");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(environment, model, options);
  Ort::AllocatorWithDefaultOptions allocator;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

  // A model that does not use an input, such as the era, does not have it.
  std::vector<std::string> names;
  std::vector<Ort::Value> inputs;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    const std::string& name = names.back();
    if (name == "nodes") {
      inputs.push_back(Ort::Value::CreateTensor<float>(
          memory, event.nodes.data(), event.nodes.size(), node_shape.data(), node_shape.size()));
    } else if (name == "valid_mask") {
      inputs.push_back(Ort::Value::CreateTensor<bool>(
          memory, event.valid.data(), event.valid.size(), mask_shape.data(), mask_shape.size()));
    } else if (name == "masses") {
      inputs.push_back(Ort::Value::CreateTensor<float>(
          memory, masses.data(), masses.size(), mass_shape.data(), mass_shape.size()));
    } else {
      auto& index = name == "era" ? era : channel;
      inputs.push_back(Ort::Value::CreateTensor<std::int64_t>(
          memory, index.data(), index.size(), one.data(), one.size()));
    }
  }
  std::vector<const char*> input_names;
  for (const auto& name : names) input_names.push_back(name.c_str());
  const char* output_names[] = {"probabilities"};
  const auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(),
                                   output_names, 1);
  const float* probability = outputs.front().GetTensorData<float>();
  for (std::size_t i = 0; i < kClasses.size(); ++i) std::cout << kClasses[i] << ' ' << probability[i] << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: classify MODEL.onnx MHC_GEV MA_GEV\n";
    return 2;
  }
  const std::array<float, 2> masses = {read_mass(argv[2]), read_mass(argv[3])};
  if (masses[0] <= masses[1] || masses[1] <= 0.0f) {
    std::cerr << "the masses are " << argv[2] << " and " << argv[3] << "; give mHc > mA > 0 in GeV\n";
    return 2;
  }
  try {
    classify(argv[1], masses);
  } catch (const Ort::Exception& error) {
    std::cerr << argv[1] << ": " << error.what() << '\n';
    return 2;
  }
  return 0;
}
